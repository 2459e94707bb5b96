package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// bits is the size of a subnet that is picked: 4093 containers at a time.
const bits = 20

// pickSubnet returns a private subnet that no address or route of the host
// overlaps, so that nothing of what it reaches is hidden from the containers.
func pickSubnet() (netip.Prefix, error) {
	used, err := usedPrefixes()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, second := range candidates() {
		p := netip.PrefixFrom(netip.AddrFrom4(second), bits)
		if !overlaps(used, p) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("bridge network: every private subnet that was tried is in use on the host: configure one")
}

// candidates begin where few networks are laid out by hand, or by Docker and
// Kubernetes.
func candidates() [][4]byte {
	var out [][4]byte
	for b := byte(89); b < 128; b++ {
		out = append(out, [4]byte{10, b, 0, 0})
	}
	for b := byte(16); b < 32; b++ {
		out = append(out, [4]byte{172, b, 240, 0})
	}
	for b := byte(0); b < 240; b += 16 {
		out = append(out, [4]byte{192, 168, b, 0})
	}
	return out
}

func overlaps(used []netip.Prefix, p netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

func usedPrefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		ip, ok := netip.AddrFromSlice(n.IP.To4())
		if size, _ := n.Mask.Size(); ok && size > 0 {
			out = append(out, netip.PrefixFrom(ip, size).Masked())
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	return out, nil
}

// subnet hands out the addresses of a prefix. The first is the gateway's.
type subnet struct {
	prefix netip.Prefix

	mu   sync.Mutex // guards used
	used map[uint32]bool
}

func newSubnet(p netip.Prefix) (*subnet, error) {
	if !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 {
		return nil, fmt.Errorf("bridge network: subnet %s: want one of IPv4 with 8 to 29 bits, such as 10.89.0.0/20", p)
	}
	return &subnet{prefix: p.Masked(), used: make(map[uint32]bool)}, nil
}

func (s *subnet) at(i uint32) netip.Addr {
	base := s.prefix.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+i)
	return netip.AddrFrom4(b)
}

func (s *subnet) gateway() netip.Addr { return s.at(1) }

// take returns the lowest free address and its number in the subnet.
func (s *subnet) take() (netip.Addr, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := uint32(1)<<(32-s.prefix.Bits()) - 1 // broadcast
	for i := uint32(2); i < last; i++ {
		if !s.used[i] {
			s.used[i] = true
			return s.at(i), i, nil
		}
	}
	return netip.Addr{}, 0, fmt.Errorf("bridge network: all %d addresses of %s are in use", last-2, s.prefix)
}

func (s *subnet) release(i uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, i)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
