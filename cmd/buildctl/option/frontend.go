package option

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
)

const buildArg = "build-arg:"

// Opts reads the values of --opt. A build argument without a value has that of
// the environment, and is left out if it is not there.
func Opts(values []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range values {
		k, v, ok := strings.Cut(s, "=")
		if name, isArg := strings.CutPrefix(k, buildArg); !ok && isArg && name != "" {
			if v, ok = os.LookupEnv(name); !ok {
				continue
			}
		}
		if !ok || k == "" {
			return nil, fmt.Errorf("%q: want KEY=VALUE", s)
		}
		out[k] = v
	}
	return out, nil
}

// BuildArgs puts the values of --build-arg, NAME=VALUE or NAME with the value in
// the environment, among frontend options.
func BuildArgs(to map[string]string, values []string) error {
	for _, s := range values {
		k, v, ok := strings.Cut(s, "=")
		if k == "" {
			return fmt.Errorf("%q: want NAME=VALUE, or NAME for the environment's value", s)
		}
		if !ok {
			if v, ok = os.LookupEnv(k); !ok {
				continue
			}
		}
		to[buildArg+k] = v
	}
	return nil
}

// Labels puts the values of --label among frontend options.
func Labels(to map[string]string, values []string) error {
	for _, s := range values {
		k, v, _ := strings.Cut(s, "=") // docker takes a label without a value
		if k == "" {
			return fmt.Errorf("%q: want KEY=VALUE", s)
		}
		to["label:"+k] = v
	}
	return nil
}

// Hosts reads the values of --add-host, NAME:IP or NAME=IP.
func Hosts(values []string) (string, error) {
	out := make([]string, 0, len(values))
	for _, s := range values {
		name, ip, ok := strings.Cut(s, "=")
		if !ok {
			name, ip, ok = strings.Cut(s, ":")
		}
		if !ok || name == "" {
			return "", fmt.Errorf("%q: want NAME:ADDRESS", s)
		}
		if inner, bracketed := strings.CutPrefix(ip, "["); bracketed {
			ip = strings.TrimSuffix(inner, "]")
		}
		if ip != "host-gateway" && net.ParseIP(ip) == nil {
			return "", fmt.Errorf("%q: %q is no IP address", s, ip)
		}
		out = append(out, name+"="+ip)
	}
	return strings.Join(out, ","), nil
}

// Platforms reads the values of --platform, each a list.
func Platforms(values []string) (string, error) {
	var out []string
	for _, s := range values {
		for p := range strings.SplitSeq(s, ",") {
			p = strings.TrimSpace(p)
			if p == "local" {
				p = platforms.DefaultString()
			}
			if _, err := platforms.Parse(p); err != nil {
				return "", fmt.Errorf("%q: %w: want OS/ARCHITECTURE[/VARIANT], such as linux/arm64", p, err)
			}
			out = append(out, p)
		}
	}
	return strings.Join(out, ","), nil
}

// Tags reads the values of --tag and returns full names.
func Tags(values []string) ([]string, error) {
	var out []string
	for _, s := range values {
		for t := range strings.SplitSeq(s, ",") {
			ref, err := reference.ParseNormalizedNamed(t)
			if err != nil {
				return nil, fmt.Errorf("%q: %w: want NAME[:TAG], in lower case", t, err)
			}
			if _, ok := ref.(reference.Digested); ok {
				return nil, fmt.Errorf("%q: has a digest: want NAME[:TAG]", t)
			}
			out = append(out, reference.TagNameOnly(ref).String())
		}
	}
	return out, nil
}

// Size reads a number of bytes, such as 64m.
func Size(s string) (string, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return "", fmt.Errorf("%q: want a number of bytes with a unit, such as 64m or 1g", s)
	}
	return strconv.FormatInt(n, 10), nil
}

// Ulimits reads the values of --ulimit, NAME=SOFT[:HARD].
func Ulimits(values []string) (string, error) {
	var out []string
	for _, s := range values {
		u, err := units.ParseUlimit(s)
		if err != nil {
			return "", fmt.Errorf("%q: %w: want NAME=SOFT[:HARD], such as nofile=1024:2048", s, err)
		}
		out = append(out, u.String())
	}
	return strings.Join(out, ","), nil
}

// Entitlements checks the values of --allow.
func Entitlements(values []string) error {
	for _, s := range values {
		switch name, _, _ := strings.Cut(s, "="); name {
		case "network.host", "security.insecure", "device":
		default:
			return fmt.Errorf("%q: want network.host, security.insecure or device[=NAME]", s)
		}
	}
	return nil
}

// Network reads the value of --network; "" is the default one.
func Network(s string) (string, error) {
	switch s {
	case "", "default":
		return "", nil
	case "host", "none":
		return s, nil
	default:
		return "", fmt.Errorf("%q: want default, none or host", s)
	}
}
