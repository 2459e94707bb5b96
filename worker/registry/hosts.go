package registry

import (
	"fmt"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes/docker"
)

const (
	dockerHub    = "docker.io"
	dockerHubAPI = "registry-1.docker.io"
	apiPath      = "/v2"
	userAgent    = "buildd"
)

// Options are for NewHosts.
type Options struct {
	// Registries are the [registry."HOST"] sections by HOST.
	Registries map[string]Config
	// Login finds credentials for hosts that no client has any for; nil makes
	// them anonymous. It hands the daemon's own credentials to every client, so
	// only daemons of a single user should set it.
	Login func(host string) (session.Login, error)
}

// Hosts knows how to reach each registry. It keeps connections and tokens for
// as long as they are good.
type Hosts struct {
	o      Options
	tokens tokens

	mu    sync.Mutex // guards what follows
	known map[hostKey][]docker.RegistryHost
	// noStreams is until when a host gets no Upload.
	noStreams map[string]time.Time
}

type hostKey struct {
	host     string
	insecure bool
}

// NewHosts returns the Hosts that o describes. A certificate that cannot be
// read, or a mirror that is none, is an error here and not in some build.
func NewHosts(o Options) (*Hosts, error) {
	h := &Hosts{o: o, known: map[hostKey][]docker.RegistryHost{}, noStreams: map[string]time.Time{}}
	for host := range o.Registries {
		if _, err := h.of(host, false); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// of returns how to reach the registry host, mirrors first. insecure accepts
// any certificate and plain HTTP, and uses no mirror.
func (h *Hosts) of(host string, insecure bool) ([]docker.RegistryHost, error) {
	key := hostKey{host, insecure}
	h.mu.Lock()
	hosts, ok := h.known[key]
	h.mu.Unlock()
	if ok {
		return hosts, nil
	}
	hosts, err := h.list(host, insecure)
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w", host, err)
	}
	h.mu.Lock()
	h.known[key] = hosts
	h.mu.Unlock()
	return hosts, nil
}

func (h *Hosts) refuseStreams(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noStreams[host] = time.Now().Add(noStreamsTime)
}

func (h *Hosts) refusesStreams(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.noStreams[host])
}

func (h *Hosts) list(host string, insecure bool) ([]docker.RegistryHost, error) {
	c := h.o.Registries[host]
	if insecure {
		yes := true
		c.Insecure, c.PlainHTTP, c.Mirrors = &yes, &yes, nil
	}
	var out []docker.RegistryHost
	for _, m := range c.Mirrors {
		name, prefix, err := parseMirror(m)
		if err != nil {
			return nil, err
		}
		rh, err := reach(name, h.o.Registries[name])
		if err != nil {
			return nil, fmt.Errorf("mirror %q: %w", m, err)
		}
		rh.Path = path.Join(apiPath, prefix)
		rh.Capabilities = docker.HostCapabilityPull | docker.HostCapabilityResolve
		out = append(out, rh)
	}
	if host == dockerHub {
		host = dockerHubAPI
	}
	rh, err := reach(host, c)
	if err != nil {
		return nil, err
	}
	return append(out, rh), nil
}

// parseMirror splits HOST[:PORT][/PATH].
func parseMirror(m string) (host, prefix string, err error) {
	if strings.Contains(m, "://") {
		return "", "", fmt.Errorf("mirror %q: want HOST[:PORT][/PATH] without a scheme; http = true in its own section chooses plain HTTP", m)
	}
	host, prefix, _ = strings.Cut(strings.TrimSuffix(m, "/"), "/")
	if host == "" || strings.ContainsAny(host, " @#?") {
		return "", "", fmt.Errorf("mirror %q: want HOST[:PORT][/PATH]", m)
	}
	return host, strings.TrimPrefix(prefix, "v2/"), nil
}

// reach says how to talk to one host.
func reach(host string, c Config) (docker.RegistryHost, error) {
	local, err := docker.MatchLocalhost(host)
	if err != nil {
		return docker.RegistryHost{}, err
	}
	plain := local
	if c.PlainHTTP != nil {
		plain = *c.PlainHTTP
	}
	tc, err := c.tls()
	if err != nil {
		return docker.RegistryHost{}, err
	}
	rh := docker.RegistryHost{
		Host:         host,
		Scheme:       "https",
		Path:         apiPath,
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush | docker.HostCapabilityReferrers,
		Header:       http.Header{"User-Agent": {userAgent}},
	}
	var rt http.RoundTripper = newTransport(tc)
	switch {
	case c.insecure() && plain:
		rt = &plainFallback{next: rt}
	case plain:
		rh.Scheme = "http"
	}
	rh.Client = &http.Client{Transport: &retryTransport{next: rt}}
	return rh, nil
}
