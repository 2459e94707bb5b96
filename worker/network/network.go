package network

import (
	"context"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Provider makes the networks of containers.
type Provider interface {
	// New returns a network for one container. hostname is what plugins may
	// announce it by; most containers have none.
	New(ctx context.Context, hostname string) (Namespace, error)
	// Close removes all that the provider made. The namespaces that it gave away
	// must be closed before.
	Close() error
}

// Namespace is the network of one container.
type Namespace interface {
	// Configure puts it into a container's spec, which must be complete otherwise.
	Configure(s *specs.Spec) error
	// Close is called when the container has ended.
	Close() error
}

// setNamespace makes path the network namespace of a spec; empty is a new one.
func setNamespace(s *specs.Spec, path string) {
	unsetNamespace(s)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
}

func unsetNamespace(s *specs.Spec) {
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	s.Linux.Namespaces = slices.DeleteFunc(slices.Clone(s.Linux.Namespaces), func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}

// None gives every container an empty namespace, made by its runtime.
type None struct{}

// New implements Provider.
func (None) New(context.Context, string) (Namespace, error) { return none{}, nil }

// Close implements Provider.
func (None) Close() error { return nil }

type none struct{}

func (none) Configure(s *specs.Spec) error { setNamespace(s, ""); return nil }
func (none) Close() error                  { return nil }

// Host leaves containers in the daemon's own namespace.
type Host struct{}

// New implements Provider.
func (Host) New(context.Context, string) (Namespace, error) { return host{}, nil }

// Close implements Provider.
func (Host) Close() error { return nil }

type host struct{}

func (host) Configure(s *specs.Spec) error { unsetNamespace(s); return nil }
func (host) Close() error                  { return nil }

// changes reports whether a container could change its namespace so that the next
// one would notice: then it is used once only.
func changes(s *specs.Spec) bool {
	if s.Process == nil || s.Process.Capabilities == nil {
		return false
	}
	c := s.Process.Capabilities
	for _, set := range [][]string{c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient} {
		if slices.Contains(set, "CAP_NET_ADMIN") || slices.Contains(set, "CAP_SYS_ADMIN") {
			return true
		}
	}
	return len(s.Linux.Sysctl) > 0
}
