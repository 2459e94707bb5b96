package lower

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// portCost is what a port of a range takes of what a Dockerfile may make, in bytes: a word of ten bytes stands for 65536 ports.
const portCost = 64

func (in *instruction) expose(c *instructions.ExposeCommand) error {
	var ports []string
	for _, p := range c.Ports {
		words, err := in.expand.list(p, in.s.env)
		if err != nil {
			return err
		}
		for _, w := range words {
			list, err := in.port(w)
			if err != nil {
				return err
			}
			ports = append(ports, list...)
		}
	}
	exposed := &in.s.image.Config.ExposedPorts
	if *exposed == nil {
		*exposed = map[string]struct{}{}
	}
	for _, p := range ports {
		(*exposed)[p] = struct{}{}
	}
	return in.record(fmt.Sprintf("EXPOSE %v", ports), false)
}

// port reads one word of EXPOSE, [[ip:]hostports:]ports[/proto], into the form of the image config, one port each. What belongs
// to the host means nothing to an image, but was always accepted.
func (in *instruction) port(word string) ([]string, error) {
	host, hostPorts, ports := splitPort(word)
	ports, proto, _ := strings.Cut(ports, "/")
	if ports == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", word)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s, must be tcp, udp or sctp", word, proto)
	}
	if proto != strings.ToLower(proto) {
		in.warn(&linter.RuleExposeProtoCasing, linter.RuleExposeProtoCasing.Format(word))
	}
	if host != "" || hostPorts != "" {
		in.warn(&linter.RuleExposeInvalidFormat, linter.RuleExposeInvalidFormat.Format(word))
	}
	if ip := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"); host != "" && net.ParseIP(ip) == nil {
		return nil, fmt.Errorf("invalid IP address: %s", host)
	}
	first, last, err := portRange(ports)
	if err != nil {
		return nil, fmt.Errorf("invalid containerPort: %s: %w", ports, err)
	}
	if hostPorts != "" {
		f, l, err := portRange(hostPorts)
		if err != nil {
			return nil, fmt.Errorf("invalid hostPort: %s: %w", hostPorts, err)
		}
		if l-f != last-first && first != last {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", ports, hostPorts)
		}
	}
	if err := in.expand.spend(portCost * (last - first)); err != nil {
		return nil, err
	}
	out := make([]string, 0, last-first+1)
	for p := first; p <= last; p++ {
		out = append(out, strconv.Itoa(p)+"/"+strings.ToLower(proto))
	}
	return out, nil
}

// splitPort splits at the last two colons: an IPv6 address has some of its own.
func splitPort(word string) (host, hostPorts, ports string) {
	i := strings.LastIndexByte(word, ':')
	if i < 0 {
		return "", "", word
	}
	ports, word = word[i+1:], word[:i]
	if i = strings.LastIndexByte(word, ':'); i < 0 {
		return "", word, ports
	}
	return word[:i], word[i+1:], ports
}

func portRange(s string) (first, last int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = portNumber(from); err != nil || !isRange {
		return first, first, err
	}
	if last, err = portNumber(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, errors.New("the range ends before it begins")
	}
	return first, last, nil
}

func portNumber(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is no number from 0 to 65535", s)
	}
	return int(n), nil
}
