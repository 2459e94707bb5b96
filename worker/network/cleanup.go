package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cleanup removes the bridge, its devices and rules, of this daemon or of one of
// the same name before it.
func (b *Bridge) cleanup() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if name != b.config.Device && !strings.HasPrefix(name, "bd"+hash(b.config.Name)+"-") {
			continue
		}
		if name == b.config.Device && l.Type() != "bridge" {
			errs = append(errs, fmt.Errorf("device %s is there already and no bridge", name))
			continue
		}
		errs = append(errs, removeLink(l))
	}
	return errors.Join(append(errs, removeRules(b.table().Name))...)
}

// removeLink removes a device, which may be about to go with its namespace.
func removeLink(l netlink.Link) error {
	err := netlink.LinkDel(l)
	if err == nil || errors.Is(err, unix.ENODEV) || errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	return fmt.Errorf("remove device %s: %w", l.Attrs().Name, err)
}

// ours is how the addresses of our bridges begin, and ourName what those are
// called that have no name given to them.
var (
	ours    = net.HardwareAddr{0x02, 0xbd}
	ourName = regexp.MustCompile(`^bd([0-9a-f]{6})$`)
)

// removeOrphans removes the bridges and rules of daemons that were killed. Every
// bridge has a port for as long as its daemon lives.
func removeOrphans() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list devices: %w", err)
	}
	alive := make(map[int]bool)
	for _, l := range links {
		alive[l.Attrs().MasterIndex] = true
	}
	var errs []error
	for _, l := range links {
		name := ourName.FindStringSubmatch(l.Attrs().Name)
		if name == nil || l.Type() != "bridge" || !bytes.HasPrefix(l.Attrs().HardwareAddr, ours) || alive[l.Attrs().Index] {
			continue
		}
		errs = append(errs, removeLink(l), removeRules(tableName(name[1])))
	}
	return errors.Join(errs...)
}

// lockTime is how long another daemon may take to make its bridge.
const lockTime = 10 * time.Second

// lock keeps daemons apart that make bridges in one network namespace, for which
// a bridge without a port yet would look like an orphan. The lock is the name of a
// socket, which goes with its daemon.
func lock() (unlock func(), err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for end := time.Now().Add(lockTime); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@buildd-bridge"})
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			unix.Close(fd)
			return nil, fmt.Errorf("lock: %w", err)
		}
	}
}
