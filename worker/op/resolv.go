package op

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// DNS takes the place of parts of the host's resolv.conf, as [dns] in
// buildkitd.toml does. An empty part is the host's.
type DNS struct {
	Nameservers   []string
	SearchDomains []string
	Options       []string
}

const (
	hostResolvConf = "/etc/resolv.conf"
	// resolvedConf has the servers that systemd-resolved asks; resolv.conf then
	// has only its own address, 127.0.0.53, which no other network reaches.
	resolvedConf = "/run/systemd/resolve/resolv.conf"
)

// fallbackDNS is what a step asks whose host has no server that can be reached
// from another network.
var fallbackDNS = []string{"8.8.8.8", "8.8.4.4"}

// resolvConf returns the /etc/resolv.conf of a step in a network of mode.
func (d DNS) resolvConf(mode pb.NetMode, read func(string) ([]byte, error)) ([]byte, error) {
	c, err := loadResolvConf(hostResolvConf, read)
	if err != nil {
		return nil, err
	}
	shared := mode == pb.NetMode_HOST
	if !shared && len(c.Nameservers) == 1 && c.Nameservers[0] == "127.0.0.53" {
		if c, err = loadResolvConf(resolvedConf, read); err != nil {
			return nil, err
		}
	}
	if len(d.Nameservers) > 0 {
		c.Nameservers = d.Nameservers
	}
	if len(d.SearchDomains) > 0 {
		c.SearchDomains = d.SearchDomains
	}
	if len(d.Options) > 0 {
		c.Options = d.Options
	}
	if !shared {
		c.Nameservers = reachable(c.Nameservers)
	}
	if len(c.Nameservers) == 0 {
		c.Nameservers = fallbackDNS
	}
	return c.write(), nil
}

func (d DNS) check() error {
	for _, n := range d.Nameservers {
		if _, err := netip.ParseAddr(n); err != nil {
			return fmt.Errorf("nameserver %q: %w", n, err)
		}
	}
	for _, s := range append(append([]string{}, d.SearchDomains...), d.Options...) {
		if s == "" || strings.ContainsAny(s, " \t\r\n\x00") {
			return fmt.Errorf("DNS search domain or option %q: want one word", s)
		}
	}
	return nil
}

// loadResolvConf reads a file of resolv.conf(5); a missing one is empty.
func loadResolvConf(path string, read func(string) ([]byte, error)) (DNS, error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return DNS{}, nil
	}
	if err != nil {
		return DNS{}, fmt.Errorf("read name servers: %w", err)
	}
	var c DNS
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] { // anything else is a comment or for the host alone
		case "nameserver":
			c.Nameservers = append(c.Nameservers, words[1])
		case "search", "domain":
			c.SearchDomains = words[1:]
		case "options":
			c.Options = append(c.Options, words[1:]...)
		}
	}
	return c, lines.Err()
}

// reachable leaves out servers on the host itself and, as a step may lack IPv6,
// those with a zone.
func reachable(servers []string) []string {
	var out []string
	for _, s := range servers {
		a, err := netip.ParseAddr(s)
		if err == nil && !a.IsLoopback() && !a.IsUnspecified() && a.Zone() == "" {
			out = append(out, s)
		}
	}
	return out
}

func (d DNS) write() []byte {
	var b strings.Builder
	for _, n := range d.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", n)
	}
	if len(d.SearchDomains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.SearchDomains, " "))
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return []byte(b.String())
}

func (w *Worker) resolvConf(mode pb.NetMode) ([]byte, error) {
	return w.DNS.resolvConf(mode, os.ReadFile)
}
