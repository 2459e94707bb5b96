package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// BridgeConfig is what a [Bridge] is made of.
type BridgeConfig struct {
	// Name distinguishes daemons of one host: what a daemon of the same name has
	// left behind is removed. The path of the daemon's state directory will do.
	Name string
	// Device is the name of the bridge; default one made of Name.
	Device string
	// Subnet is the containers' network; default a private one that nothing on
	// the host uses.
	Subnet netip.Prefix
	// PoolSize is how many namespaces are kept ready; default 4, none if < 0.
	PoolSize int
	// Log gets the warnings; default slog.Default().
	Log *slog.Logger
}

func (c *BridgeConfig) applyDefaults() error {
	if c.Name == "" {
		return errors.New("bridge network: want a name that no other daemon of the host has")
	}
	if c.Device == "" {
		c.Device = "bd" + hash(c.Name)
	}
	if len(c.Device) > 15 {
		return fmt.Errorf("bridge network: device %q: want at most 15 characters", c.Device)
	}
	switch {
	case c.PoolSize == 0:
		c.PoolSize = 4 // a handful of steps start at a time; each costs a few hundred KiB of the kernel's memory
	case c.PoolSize < 0:
		c.PoolSize = 0
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// hash makes a short name.
func hash(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:3])
}

// Bridge gives every container a namespace of its own behind a bridge of the
// host, with address translation to the outside. Containers do not reach each
// other, nor what listens on the host's loopback addresses. It implements
// Provider.
type Bridge struct {
	config BridgeConfig
	subnet *subnet
	link   netlink.Link // the bridge
	anchor netNS        // has the other end of the port that stays
	mtu    int
	pool   *pool[*bridged]

	mu   sync.Mutex // guards last
	last uint32     // number of the last device made
}

var _ Provider = (*Bridge)(nil)

// NewBridge makes the bridge and its rules. It needs the privileges to do so over
// the host's network and nftables in the kernel; without, the error says what is
// missing.
func NewBridge(c BridgeConfig) (*Bridge, error) {
	if err := c.applyDefaults(); err != nil {
		return nil, err
	}
	b := &Bridge{config: c}
	unlock, err := lock()
	if err != nil {
		return nil, fmt.Errorf("bridge network: %w", err)
	}
	defer unlock()
	if err := removeOrphans(); err != nil {
		c.Log.Warn("a bridge of a daemon that was killed is left behind", "error", err)
	}
	// Before a subnet is picked: what is left would count as used.
	if err := b.cleanup(); err != nil {
		return nil, fmt.Errorf("bridge network: remove what was left: %w", err)
	}
	prefix := c.Subnet
	if !prefix.IsValid() {
		if prefix, err = pickSubnet(); err != nil {
			return nil, err
		}
	}
	if b.subnet, err = newSubnet(prefix); err != nil {
		return nil, err
	}
	if err := b.setup(); err != nil {
		return nil, fmt.Errorf("bridge network: %w", errors.Join(err, b.cleanup(), b.anchor.close()))
	}
	b.pool = newPool(c.PoolSize, c.Log, b.make, b.destroy)
	return b, nil
}

// Subnet returns the containers' network.
func (b *Bridge) Subnet() netip.Prefix { return b.subnet.prefix }

func (b *Bridge) setup() error {
	if err := enableForwarding(); err != nil {
		return err
	}
	b.mtu = outerMTU()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.config.Device, b.mtu
	// A fixed address of its own: else the bridge would take that of each new
	// device, and containers would lose their gateway for a moment.
	sum := sha256.Sum256([]byte(b.config.Name))
	attrs.HardwareAddr = append(slices.Clone(ours), sum[:4]...)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge %s: %w", attrs.Name, err)
	}
	link, err := netlink.LinkByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", attrs.Name, err)
	}
	b.link = link
	addr := &netlink.Addr{IPNet: ipNet(b.subnet.gateway(), b.subnet.prefix.Bits())}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give bridge its address %s: %w", addr.IPNet, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("start bridge: %w", err)
	}
	if err := b.addRules(); err != nil {
		return err
	}
	return b.carry()
}

// carry gives the bridge a port that stays, one end of a pair whose other end is
// in a namespace that the daemon holds. A bridge without ports has no carrier, and
// drops what is sent for up to a second after it has got one. And one without is
// known to have lost its daemon.
func (b *Bridge) carry() error {
	var err error
	if b.anchor, err = makeNetNS(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = b.device(0), b.mtu, b.link.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(b.anchor.fd())}); err != nil {
		return fmt.Errorf("make device %s: %w", attrs.Name, err)
	}
	h, err := handleAt(b.anchor)
	if err != nil {
		return err
	}
	defer h.Close()
	inner, err := h.LinkByName("eth0")
	if err == nil {
		err = h.LinkSetUp(inner)
	}
	if err != nil {
		return fmt.Errorf("start device %s: %w", attrs.Name, err)
	}
	outer, err := netlink.LinkByName(attrs.Name)
	if err == nil {
		err = netlink.LinkSetUp(outer)
	}
	if err != nil {
		return fmt.Errorf("start device %s: %w", attrs.Name, err)
	}
	return awaitUp(b.link)
}

// carrierTime is more than the second that the kernel may take to notice.
const carrierTime = 3 * time.Second

// awaitUp waits until a device passes packets on.
func awaitUp(l netlink.Link) error {
	for end := time.Now().Add(carrierTime); ; time.Sleep(time.Millisecond) {
		now, err := netlink.LinkByIndex(l.Attrs().Index)
		if err != nil || now.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("device %s does not come up", l.Attrs().Name)
		}
	}
}

// device is the name of the bridge's n-th port.
func (b *Bridge) device(n uint32) string {
	return fmt.Sprintf("bd%s-%x", hash(b.config.Name), n)
}

const forwarding = "/proc/sys/net/ipv4/ip_forward"

func enableForwarding() error {
	if have, err := os.ReadFile(forwarding); err == nil && strings.TrimSpace(string(have)) == "1" {
		return nil
	}
	if err := os.WriteFile(forwarding, []byte("1"), 0); err != nil {
		return fmt.Errorf("enable forwarding: %w", err)
	}
	return nil
}

// outerMTU is that of the device which leads outside, so that no packet of a
// container is too big for it.
func outerMTU() int {
	const standard = 1500
	routes, err := netlink.RouteGet(net.IPv4(198, 51, 100, 1)) // any address outside (TEST-NET-2)
	if err != nil || len(routes) == 0 {
		return standard
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().MTU < 576 || link.Attrs().MTU > 65535 {
		return standard
	}
	return link.Attrs().MTU
}

// bridged is a namespace on the bridge.
type bridged struct {
	b      *Bridge
	ns     netNS
	device string // the host's end
	ip     netip.Addr
	number uint32
	diag   *netlink.Handle // tells which sockets there are
}

// make makes a namespace with a device on the bridge.
func (b *Bridge) make(context.Context) (*bridged, error) {
	ip, number, err := b.subnet.take()
	if err != nil {
		return nil, err
	}
	ns, err := makeNetNS()
	if err != nil {
		b.subnet.release(number)
		return nil, err
	}
	b.mu.Lock()
	b.last = b.last%0xffffff + 1 // 0 is the port that stays; names have 15 characters
	device := b.device(b.last)
	b.mu.Unlock()
	n := &bridged{b: b, ns: ns, device: device, ip: ip, number: number}
	if err := n.connect(); err != nil {
		return nil, fmt.Errorf("connect network namespace: %w", errors.Join(err, b.destroy(n)))
	}
	return n, nil
}

// connect makes a pair of devices, one end on the bridge and one in the
// namespace.
func (n *bridged) connect() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = n.device, n.b.mtu, n.b.link.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(n.ns.fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make device %s: %w", n.device, err)
	}
	outer, err := netlink.LinkByName(n.device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", n.device, err)
	}
	// An isolated port sends to the bridge itself only, not to other such ports.
	if err := netlink.LinkSetIsolated(outer, true); err != nil {
		return fmt.Errorf("isolate device %s: %w", n.device, err)
	}
	if err := netlink.LinkSetUp(outer); err != nil {
		return fmt.Errorf("start device %s: %w", n.device, err)
	}
	if err := n.configure(); err != nil {
		return err
	}
	if n.diag, err = netlink.NewHandleAt(netns.NsHandle(n.ns.fd()), unix.NETLINK_INET_DIAG); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return awaitUp(outer)
}

// quiet tells whether no TCP connection outlives the container: one in TIME_WAIT
// keeps its port from the next.
func (n *bridged) quiet() bool {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if left, err := n.diag.SocketDiagTCP(family); err != nil || len(left) > 0 {
			return false
		}
	}
	return true
}

// configure sets address and route inside the namespace.
func (n *bridged) configure() error {
	h, err := handleAt(n.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	inner, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	addr := &netlink.Addr{IPNet: ipNet(n.ip, n.b.subnet.prefix.Bits())}
	if err := h.AddrAdd(inner, addr); err != nil {
		return fmt.Errorf("give eth0 its address %s: %w", addr.IPNet, err)
	}
	if err := h.LinkSetUp(inner); err != nil {
		return fmt.Errorf("start eth0: %w", err)
	}
	route := &netlink.Route{LinkIndex: inner.Attrs().Index, Gw: n.b.subnet.gateway().AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// destroy removes a namespace; its devices go with it.
func (b *Bridge) destroy(n *bridged) error {
	// At once, and not when the kernel comes round to the namespace: until then
	// the address would be on the bridge twice.
	var err error
	if link, lerr := netlink.LinkByName(n.device); lerr == nil {
		err = removeLink(link)
	}
	if n.diag != nil {
		n.diag.Close()
	}
	err = errors.Join(err, n.ns.close())
	b.subnet.release(n.number)
	return err
}

// New implements Provider.
func (b *Bridge) New(ctx context.Context, _ string) (Namespace, error) {
	n, err := b.pool.get(ctx)
	if err != nil {
		return nil, err
	}
	return &lease{bridged: n}, nil
}

// Close implements Provider.
func (b *Bridge) Close() error {
	return errors.Join(b.pool.close(), b.cleanup(), b.anchor.close())
}

// lease is a namespace as one container has it.
type lease struct {
	*bridged
	once    sync.Once
	changed bool
}

// Configure implements Namespace.
func (l *lease) Configure(s *specs.Spec) error {
	l.changed = l.changed || changes(s)
	setNamespace(s, l.ns.path())
	return nil
}

// Close implements Namespace. A namespace that its container could not change,
// and in which no connection lingers, is used again.
func (l *lease) Close() (err error) {
	l.once.Do(func() { err = l.b.pool.release(l.bridged, !l.changed && l.quiet()) })
	return err
}
