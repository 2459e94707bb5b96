package network

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	native.Init()
	code := m.Run()
	runtimetest.Cleanup()
	os.Exit(code)
}

// TestContainers runs real containers on each kind of network.
func TestContainers(t *testing.T) {
	runtimetest.Require(t)
	r, err := native.New(native.Config{})
	must(t, err)
	defer r.Close()
	root := runtimetest.Rootfs(t)
	w := newWorld(t)
	addr := serve(t, w.s, w.addr.String()+":0")
	b := newBridge(t, BridgeConfig{PoolSize: 1})
	cgroups := fmt.Sprintf("/buildd-network-test-%d", os.Getpid())
	defer func() { must(t, native.Cleanup(cgroups)) }()
	for name, c := range map[string]struct {
		p       Provider
		reaches bool
	}{"none": {None{}, false}, "host": {Host{}, true}, "bridge": {b, true}} {
		n, err := c.p.New(t.Context(), "")
		must(t, err)
		s, err := runtime.Spec(runtime.SpecOptions{
			ID: name, Root: root, CgroupParent: cgroups,
			Args: []string{"/bin/nc", "-w", "2", addr.Addr().String(), fmt.Sprint(addr.Port())},
		})
		must(t, err)
		must(t, n.Configure(s))
		var out strings.Builder
		err = r.Run(t.Context(), name, runtime.Sandbox{Spec: s}, runtime.Process{Stdout: stream{&out}})
		if got := err == nil && strings.HasPrefix(out.String(), "203.0.113.1:"); got != c.reaches {
			t.Errorf("%s: %q, %v; want it to reach the world: %v", name, out.String(), err, c.reaches)
		}
		must(t, n.Close())
	}
}

type stream struct{ *strings.Builder }

func (stream) Close() error { return nil }

func BenchmarkBridge(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("SKIPPED: network namespaces need root")
	}
	for name, size := range map[string]int{"ready": 2, "new": -1} {
		b.Run(name, func(b *testing.B) {
			p, err := NewBridge(BridgeConfig{Name: fmt.Sprintf("bench-%d", os.Getpid()), PoolSize: size})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			for b.Loop() {
				n, err := p.New(b.Context(), "")
				if err != nil {
					b.Fatal(err)
				}
				if err := n.Configure(&specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}); err != nil {
					b.Fatal(err)
				}
				if err := n.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
