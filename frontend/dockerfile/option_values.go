package dockerfile

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/go-csvvalue"
)

var (
	errUnknown = errors.New("unknown value")
	errNoBool  = errors.New("not a boolean")
)

// parsePlatforms returns each platform once: two of the same would be two manifests that an index cannot tell apart.
func parsePlatforms(v string) ([]ocispecs.Platform, error) {
	var out []ocispecs.Platform
	for s := range strings.SplitSeq(v, ",") {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", s, err)
		}
		p = platforms.Normalize(p)
		same := func(o ocispecs.Platform) bool { return platforms.FormatAll(o) == platforms.FormatAll(p) }
		if !slices.ContainsFunc(out, same) {
			out = append(out, p)
		}
	}
	return out, nil
}

func parseExtraHosts(v string) ([]llb.HostIP, error) {
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return nil, err
	}
	var out []llb.HostIP
	for _, field := range fields {
		host, addr, ok := strings.Cut(strings.ToLower(field), "=")
		if !ok || host == "" {
			return nil, fmt.Errorf("entry %q has no host or no =", field)
		}
		ip := net.ParseIP(addr)
		if ip == nil {
			return nil, fmt.Errorf("%q of host %s is no IP address", addr, host)
		}
		out = append(out, llb.HostIP{Host: host, IP: ip})
	}
	return out, nil
}

func parseSize(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err == nil && n < 0 {
		err = errors.New("less than 0")
	}
	return n, err
}

func parseUlimits(v string) ([]*pb.Ulimit, error) {
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return nil, err
	}
	var out []*pb.Ulimit
	for _, field := range fields {
		u, err := units.ParseUlimit(field)
		if err != nil {
			return nil, err
		}
		out = append(out, &pb.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out, nil
}

// noCache says which stages run again although they are cached.
type noCache struct {
	all    bool
	stages []string
}

// parseNoCache tells an empty option, which means every stage, from one that is not there.
func parseNoCache(raw map[string]string) noCache {
	v, ok := raw[optNoCache]
	if !ok || v == "" {
		return noCache{all: ok}
	}
	return noCache{stages: strings.Split(v, ",")}
}

func (n noCache) stage(name string) bool {
	return n.all || slices.ContainsFunc(n.stages, func(s string) bool { return strings.EqualFold(s, name) })
}
