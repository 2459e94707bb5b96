package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
}

func spec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.MountNamespace},
	}}}
}

// netPath returns the network namespace of a spec.
func netPath(t *testing.T, s *specs.Spec) (path string, found bool) {
	t.Helper()
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			if found {
				t.Errorf("two network namespaces: %v", s.Linux.Namespaces)
			}
			path, found = n.Path, true
		}
	}
	return path, found
}

func TestNoneAndHost(t *testing.T) {
	for _, c := range []struct {
		p     Provider
		found bool
	}{{None{}, true}, {Host{}, false}} {
		n, err := c.p.New(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		s := spec()
		if err := n.Configure(s); err != nil {
			t.Fatal(err)
		}
		if path, found := netPath(t, s); path != "" || found != c.found || len(s.Linux.Namespaces) < 2 {
			t.Errorf("%T: namespaces %v", c.p, s.Linux.Namespaces)
		}
		if err := errors.Join(n.Close(), c.p.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// inside runs f on a thread in the network namespace of a spec.
func inside(t *testing.T, s *specs.Spec, f func() error) error {
	t.Helper()
	path, _ := netPath(t, s)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// listen answers each connection with the caller's address. It is made on the
// thread that it is called on, so in that thread's namespace.
func listen(addr string) (net.Listener, error) {
	var l net.Listener
	var err error
	l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", addr)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, c.RemoteAddr())
			c.Close()
		}
	}()
	return l, nil
}

// dial returns what a listener answers, from the namespace of a spec. A raw
// socket, so that no other thread of Go's net package is in play.
func dial(t *testing.T, s *specs.Spec, to netip.AddrPort) (string, error) {
	t.Helper()
	var out string
	err := inside(t, s, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		tv := unix.NsecToTimeval(int64(700 * time.Millisecond))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			return err
		}
		out, err = bufio.NewReader(f).ReadString('\n')
		return err
	})
	return strings.TrimSpace(out), err
}

// world is a namespace that plays the outside: it is reached through the host,
// and knows nothing of the containers' subnet.
type world struct {
	ns   netNS
	addr netip.Addr
	s    *specs.Spec
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ns, err := makeNetNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.close() })
	w := &world{ns: ns, addr: netip.MustParseAddr("203.0.113.2"), s: spec()}
	setNamespace(w.s, ns.path())
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("bdw%d", os.Getpid()%100000)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.fd())}))
	outer, err := netlink.LinkByName(attrs.Name)
	must(t, err)
	t.Cleanup(func() { _ = netlink.LinkDel(outer) })
	must(t, netlink.AddrAdd(outer, &netlink.Addr{IPNet: ipNet(netip.MustParseAddr("203.0.113.1"), 30)}))
	must(t, netlink.LinkSetUp(outer))
	h, err := handleAt(ns)
	must(t, err)
	defer h.Close()
	inner, err := h.LinkByName("eth0")
	must(t, err)
	must(t, h.AddrAdd(inner, &netlink.Addr{IPNet: ipNet(w.addr, 30)}))
	must(t, h.LinkSetUp(inner))
	must(t, awaitUp(outer))
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve listens in the namespace of a spec.
func serve(t *testing.T, s *specs.Spec, addr string) netip.AddrPort {
	t.Helper()
	var l net.Listener
	must(t, inside(t, s, func() (err error) { l, err = listen(addr); return err }))
	t.Cleanup(func() { l.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func newBridge(t *testing.T, c BridgeConfig) *Bridge {
	t.Helper()
	requireRoot(t)
	if c.Name == "" {
		c.Name = fmt.Sprintf("test-%d-%s", os.Getpid(), t.Name())
	}
	b, err := NewBridge(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, c.Name)
	})
	return b
}

func nothingLeft(t *testing.T, name string) {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "bd"+hash(name)) {
			t.Errorf("device %s is left", l.Attrs().Name)
		}
	}
	c, err := nftables.New()
	must(t, err)
	tables, err := c.ListTables()
	must(t, err)
	for _, table := range tables {
		if table.Name == "buildd-"+hash(name) {
			t.Errorf("table %s is left", table.Name)
		}
	}
}

// open returns a configured namespace.
func open(t *testing.T, p Provider, change ...func(*specs.Spec)) (*specs.Spec, Namespace) {
	t.Helper()
	n, err := p.New(t.Context(), "")
	must(t, err)
	s := spec()
	for _, f := range change {
		f(s)
	}
	must(t, n.Configure(s))
	return s, n
}

func TestBridge(t *testing.T) {
	b := newBridge(t, BridgeConfig{PoolSize: 2})
	w := newWorld(t)
	s1, n1 := open(t, b)
	defer n1.Close()
	s2, n2 := open(t, b)
	defer n2.Close()
	p1, _ := netPath(t, s1)
	if p2, _ := netPath(t, s2); p1 == p2 {
		t.Fatalf("both have %s", p1)
	}

	t.Run("reaches the world, translated", func(t *testing.T) {
		got, err := dial(t, s1, serve(t, w.s, w.addr.String()+":0"))
		if err != nil || !strings.HasPrefix(got, "203.0.113.1:") {
			t.Errorf("the world sees %q, %v; want the host's address 203.0.113.1", got, err)
		}
	})
	t.Run("reaches itself", func(t *testing.T) {
		if got, err := dial(t, s1, serve(t, s1, "127.0.0.1:0")); err != nil || !strings.HasPrefix(got, "127.0.0.1:") {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("does not reach another container", func(t *testing.T) {
		addr := serve(t, s2, "0.0.0.0:0")
		ip := n2.(*lease).ip
		if got, err := dial(t, s1, netip.AddrPortFrom(ip, addr.Port())); err == nil {
			t.Errorf("it answered %q", got)
		}
	})
	t.Run("is not reached from outside", func(t *testing.T) {
		addr := serve(t, s1, "0.0.0.0:0")
		h, err := handleAt(w.ns)
		must(t, err)
		defer h.Close()
		must(t, h.RouteAdd(&netlink.Route{Dst: ipNet(b.Subnet().Addr(), b.Subnet().Bits()), Gw: net.IPv4(203, 0, 113, 1)}))
		if got, err := dial(t, w.s, netip.AddrPortFrom(n1.(*lease).ip, addr.Port())); err == nil {
			t.Errorf("it answered %q", got)
		}
	})
	t.Run("does not reach the host's loopback", func(t *testing.T) {
		l, err := listen("127.0.0.1:0")
		must(t, err)
		defer l.Close()
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), b.subnet.gateway()} {
			if got, err := dial(t, s1, netip.AddrPortFrom(ip, port)); err == nil {
				t.Errorf("at %s it answered %q", ip, got)
			}
		}
		// Nor with a route there.
		path, _ := netPath(t, s1)
		f, err := os.Open(path)
		must(t, err)
		h, err := handleAt(netNS{f})
		must(t, err)
		defer h.Close()
		defer f.Close()
		lo, err := h.LinkByName("lo")
		must(t, err)
		must(t, h.LinkSetDown(lo))
		defer h.LinkSetUp(lo)
		if got, err := dial(t, s1, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)); err == nil {
			t.Errorf("it answered %q", got)
		}
	})
}

func TestBridgeReuse(t *testing.T) {
	b := newBridge(t, BridgeConfig{PoolSize: 1})
	waitIdle(t, b, 1)
	// use opens one, has f use it, gives it back and tells which it was.
	use := func(f func(*specs.Spec), change ...func(*specs.Spec)) string {
		s, n := open(t, b, change...)
		p, _ := netPath(t, s)
		name, err := os.Readlink(p)
		must(t, err)
		f(s)
		waitIdle(t, b, 1)
		must(t, n.Close())
		must(t, n.Close())
		return name
	}
	leave := func(*specs.Spec) {}
	first := use(leave)
	if use(leave) != first {
		t.Error("a namespace that was left as it was is not used again")
	}
	changed := use(leave, func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_ADMIN"}}
	})
	if use(leave) == changed {
		t.Error("a namespace that its container could change is used again")
	}
	lingering := use(func(s *specs.Spec) { must(t, inside(t, s, linger)) })
	for range 3 {
		if use(leave) == lingering {
			t.Error("a namespace with a connection in TIME_WAIT is used again")
		}
	}

	var many []Namespace
	for range 8 {
		_, n := open(t, b)
		many = append(many, n)
	}
	for _, n := range many {
		must(t, n.Close())
	}
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	if n := len(b.pool.idle); n > spare {
		t.Errorf("%d are kept", n)
	}
}

// linger leaves a connection in TIME_WAIT.
func linger() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	s, err := l.Accept()
	return errors.Join(err, s.Close(), c.Close())
}

func waitIdle(t *testing.T, b *Bridge, want int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		b.pool.mu.Lock()
		n := len(b.pool.idle)
		b.pool.mu.Unlock()
		if n == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d namespaces are ready, want %d", n, want)
		}
	}
}

func TestBridgeParallel(t *testing.T) {
	b := newBridge(t, BridgeConfig{PoolSize: 2})
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			n, err := b.New(t.Context(), "")
			if err != nil {
				t.Error(err)
				return
			}
			ip := n.(*lease).ip
			mu.Lock()
			if seen[ip] {
				t.Errorf("%s twice at a time", ip)
			}
			seen[ip] = true
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			delete(seen, ip)
			mu.Unlock()
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestBridgeAfterCrash makes a bridge over what one of the same name has left.
func TestBridgeAfterCrash(t *testing.T) {
	name := fmt.Sprintf("test-%d-crash", os.Getpid())
	old := newBridge(t, BridgeConfig{Name: name, PoolSize: 2})
	_, n := open(t, old)
	waitIdle(t, old, 2)
	b, err := NewBridge(BridgeConfig{Name: name, PoolSize: 1})
	must(t, err)
	if b.Subnet() != old.Subnet() {
		t.Errorf("subnet %s, before %s: what was left counted as used", b.Subnet(), old.Subnet())
	}
	other, err := NewBridge(BridgeConfig{Name: name + "-other"})
	must(t, err)
	if other.Subnet().Overlaps(b.Subnet()) {
		t.Errorf("another daemon has subnet %s, too", other.Subnet())
	}
	must(t, other.Close())
	nothingLeft(t, name+"-other")
	s, m := open(t, b)
	w := newWorld(t)
	if _, err := dial(t, s, serve(t, w.s, w.addr.String()+":0")); err != nil {
		t.Error(err)
	}
	must(t, m.Close())
	must(t, b.Close())
	_ = n.Close()
}

// TestBridgeOrphans: what a killed daemon of another name has left goes, too; what
// a living one has stays.
func TestBridgeOrphans(t *testing.T) {
	alive := newBridge(t, BridgeConfig{PoolSize: -1})
	name := fmt.Sprintf("test-%d-killed", os.Getpid())
	killed, err := NewBridge(BridgeConfig{Name: name, PoolSize: 1})
	must(t, err)
	waitIdle(t, killed, 1)
	// What the end of the process does.
	must(t, killed.anchor.close())
	killed.pool.mu.Lock()
	must(t, killed.pool.idle[0].ns.close())
	killed.pool.idle[0].diag.Close()
	killed.pool.mu.Unlock()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := netlink.LinkByName(killed.device(0)); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the kernel does not remove the devices of a namespace that is gone")
		}
	}
	other, err := NewBridge(BridgeConfig{Name: name + "-next", PoolSize: -1})
	must(t, err)
	must(t, other.Close())
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := netlink.LinkByName(killed.config.Device); err != nil {
			break
		}
		must(t, removeOrphans()) // its other port may have been there still
	}
	nothingLeft(t, name)
	if _, err := netlink.LinkByName(alive.config.Device); err != nil {
		t.Errorf("the bridge of a living daemon: %v", err)
	}
}

// TestBridgeBehindFirewall has a chain as Docker's that forwards nothing.
func TestBridgeBehindFirewall(t *testing.T) {
	requireRoot(t)
	c, err := nftables.New()
	must(t, err)
	if ch, err := forwardChain(c); err != nil || ch != nil {
		t.Skipf("SKIPPED: the host has a chain FORWARD of its own (%v)", err)
	}
	drop := nftables.ChainPolicyDrop
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"})
	c.AddChain(&nftables.Chain{Table: table, Name: "FORWARD", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	must(t, c.Flush())
	defer func() { c.DelTable(table); must(t, c.Flush()) }()

	w := newWorld(t)
	b, err := NewBridge(BridgeConfig{Name: fmt.Sprintf("test-%d-firewall", os.Getpid()), PoolSize: -1})
	must(t, err)
	s, n := open(t, b)
	if _, err := dial(t, s, serve(t, w.s, w.addr.String()+":0")); err != nil {
		t.Error(err)
	}
	must(t, n.Close())
	must(t, b.Close())
	ch, err := forwardChain(c)
	must(t, err)
	rules, err := c.GetRules(ch.Table, ch)
	must(t, err)
	if len(rules) != 0 {
		t.Errorf("%d rules are left in the host's firewall", len(rules))
	}
}

func TestBridgeConfigErrors(t *testing.T) {
	requireRoot(t)
	for name, c := range map[string]BridgeConfig{
		"no name":     {},
		"long device": {Name: "x", Device: "much-too-long-a-name"},
		"IPv6":        {Name: "x", Subnet: netip.MustParsePrefix("fd00::/64")},
		"tiny":        {Name: "x", Subnet: netip.MustParsePrefix("10.0.0.0/30")},
		"taken":       {Name: "x", Device: "lo"},
	} {
		if b, err := NewBridge(c); err == nil {
			t.Errorf("%s: no error", name)
			b.Close()
		}
	}
	nothingLeft(t, "x")
}

func TestSubnet(t *testing.T) {
	s, err := newSubnet(netip.MustParsePrefix("10.1.2.77/29"))
	must(t, err)
	if s.gateway() != netip.MustParseAddr("10.1.2.73") {
		t.Errorf("gateway %s", s.gateway())
	}
	var got []string
	for {
		ip, _, err := s.take()
		if err != nil {
			break
		}
		got = append(got, ip.String())
	}
	if want := "10.1.2.74 10.1.2.75 10.1.2.76 10.1.2.77 10.1.2.78"; strings.Join(got, " ") != want {
		t.Errorf("addresses %v, want %s", got, want)
	}
	s.release(3)
	if ip, _, err := s.take(); err != nil || ip.String() != "10.1.2.75" {
		t.Errorf("after release: %s, %v", ip, err)
	}
	if !overlaps([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, netip.MustParsePrefix("10.89.0.0/20")) {
		t.Error("a route to 10.0.0.0/8 does not count")
	}
}

const plugins = "/usr/lib/cni"

func TestCNI(t *testing.T) {
	requireRoot(t)
	for _, p := range []string{"bridge", "host-local", "loopback"} {
		if _, err := os.Stat(filepath.Join(plugins, p)); err != nil {
			t.Skipf("SKIPPED: CNI plugin %s is missing: install containernetworking-plugins", p)
		}
	}
	dir := t.TempDir()
	device := fmt.Sprintf("bdc%d", os.Getpid()%100000)
	config := filepath.Join(dir, "net.conflist")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "%s", "plugins": [
		{"type": "bridge", "bridge": %q, "isGateway": true, "ipam": {"type": "host-local", "dataDir": %q,
		 "ranges": [[{"subnet": "198.18.0.0/29"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`, device, device, filepath.Join(dir, "ipam")), 0o644))
	defer exec.Command("ip", "link", "del", device).Run()
	state := filepath.Join(dir, "state")
	c, err := NewCNI(t.Context(), CNIConfig{ConfigPath: config, BinaryDir: plugins, PoolSize: 1, Dir: state})
	must(t, err)
	s, n := open(t, c)
	if got, err := dial(t, s, serve(t, s, "127.0.0.1:0")); err != nil {
		t.Errorf("loopback: %q, %v", got, err)
	}
	l, err := listen("198.18.0.1:0")
	must(t, err)
	defer l.Close()
	if got, err := dial(t, s, netip.MustParseAddrPort(l.Addr().String())); err != nil || !strings.HasPrefix(got, "198.18.0.") {
		t.Errorf("gateway: %q, %v", got, err)
	}
	named, err := c.New(t.Context(), "some-name")
	must(t, err)
	must(t, named.Close())
	must(t, n.Close())

	// As if killed: the plugins hear of the namespace from the next one.
	_, lost := open(t, c)
	_ = lost.(*cniLease).ns.close()
	must(t, c.Close())
	again, err := NewCNI(t.Context(), CNIConfig{ConfigPath: config, BinaryDir: plugins, Dir: state})
	must(t, err)
	must(t, again.Close())
	if left, _ := os.ReadDir(state); len(left) > 0 {
		t.Errorf("notes are left: %v", left)
	}
	ipam, _ := filepath.Glob(filepath.Join(dir, "ipam", device, "198.*"))
	if len(ipam) > 0 {
		t.Errorf("addresses are left: %v", ipam)
	}
}

func TestCNIErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.json")
	must(t, os.WriteFile(bad, []byte("{"), 0o644))
	for name, c := range map[string]CNIConfig{
		"no configuration": {ConfigPath: filepath.Join(dir, "none"), BinaryDir: dir, Dir: dir},
		"no plugins":       {ConfigPath: bad, BinaryDir: filepath.Join(dir, "none"), Dir: dir},
		"bad":              {ConfigPath: bad, BinaryDir: dir, Dir: filepath.Join(dir, "state")},
	} {
		if _, err := NewCNI(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
