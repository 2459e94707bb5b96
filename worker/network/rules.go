package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// handleAt returns a handle for the devices of a namespace.
func handleAt(n netNS) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	return h, nil
}

// The rules, in a table of the daemon's own:
//
//	chain postrouting { type nat hook postrouting; ip saddr SUBNET oifname != BRIDGE masquerade }
//	chain forward     { type filter hook forward;  iifname BRIDGE oifname BRIDGE drop
//	                                               oifname BRIDGE ct state new drop }
//	chain input       { type filter hook input;    iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//
// that is: containers are translated, do not reach each other, and are not
// reached from outside. A firewall of the host that forwards nothing by default
// (Docker's, through iptables) gets two rules that let the bridge through.

func (b *Bridge) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName(hash(b.config.Name))}
}

func tableName(hash string) string { return "buildd-" + hash }

func (b *Bridge) addRules() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := c.AddTable(b.table())
	device := b.config.Device
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Table: t, Name: name, Type: kind, Hooknum: hook, Priority: prio})
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
		}
	}
	prefix := b.subnet.prefix
	mask := ipNet(prefix.Addr(), prefix.Bits()).Mask
	chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		join(address(12, mask, prefix.Addr().AsSlice()), outOf(device, false), []expr.Any{&expr.Masq{}}))
	chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
		join(comeFrom(device), outOf(device, true), verdict(expr.VerdictDrop)),
		join(outOf(device, true), state(expr.CtStateBitNEW), verdict(expr.VerdictDrop)))
	chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter,
		join(comeFrom(device), address(16, []byte{255, 0, 0, 0}, []byte{127, 0, 0, 0}), verdict(expr.VerdictDrop)))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add nftables rules (is nf_tables in the kernel?): %w", err)
	}
	return b.openFirewall(c)
}

// openFirewall lets the bridge through the chain that iptables has for
// forwarding, if there is one: a packet must pass all chains.
func (b *Bridge) openFirewall(c *nftables.Conn) error {
	ch, err := forwardChain(c)
	if err != nil || ch == nil {
		return err
	}
	for _, r := range [][]expr.Any{
		join(outOf(b.config.Device, true), state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept)),
		join(comeFrom(b.config.Device), verdict(expr.VerdictAccept)),
	} {
		c.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: r, UserData: []byte(b.table().Name)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("open the host's firewall for the bridge: %w", err)
	}
	return nil
}

func forwardChain(c *nftables.Conn) (*nftables.Chain, error) {
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name == "filter" && ch.Name == "FORWARD" {
			return ch, nil
		}
	}
	return nil, nil
}

// removeRules takes all away that addRules added for a table.
func removeRules(table string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list nftables tables (is nf_tables in the kernel?): %w", err)
	}
	found := false
	for _, t := range tables {
		if t.Name == table {
			c.DelTable(t)
			found = true
		}
	}
	ch, err := forwardChain(c)
	if err != nil {
		return err
	}
	if ch != nil {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return fmt.Errorf("list nftables rules: %w", err)
		}
		for _, r := range rules {
			if string(r.UserData) != table {
				continue
			}
			if err := c.DelRule(r); err != nil {
				return fmt.Errorf("remove nftables rule: %w", err)
			}
			found = true
		}
	}
	if !found {
		return nil
	}
	if err := c.Flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove nftables rules: %w", err)
	}
	return nil
}

func join(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func ifname(device string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, device)
	return b
}

func comeFrom(device string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(device)},
	}
}

func outOf(device string, is bool) []expr.Any {
	op := expr.CmpOpNeq
	if is {
		op = expr.CmpOpEq
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: ifname(device)},
	}
}

// address compares 4 bytes of the IP header, of the source at 12 or the
// destination at 16.
func address(offset uint32, mask, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

// state holds if the connection is in one of the states.
func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(v expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: v}} }
