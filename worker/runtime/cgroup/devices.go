package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// policy says which devices a container reaches: all of them or none, but for
// the exceptions.
type policy struct {
	allow      bool
	exceptions []device
}

// device is an exception. Numbers are any if < 0.
type device struct {
	kind         byte // 'c' or 'b'
	major, minor int64
	access       string // of "rwm", in this order
}

// always are the devices that every container reaches: those that every one has,
// and the making of nodes, which by itself reaches nothing.
var always = []device{
	{'c', -1, -1, "m"}, {'b', -1, -1, "m"},
	{'c', 1, 3, "rwm"},    // null
	{'c', 1, 5, "rwm"},    // zero
	{'c', 1, 7, "rwm"},    // full
	{'c', 1, 8, "rwm"},    // random
	{'c', 1, 9, "rwm"},    // urandom
	{'c', 5, 0, "rwm"},    // tty
	{'c', 5, 2, "rwm"},    // ptmx
	{'c', 136, -1, "rwm"}, // pts
}

// readPolicy reads the rules of a spec, in their order, as the files of version 1
// would: what no rule allows is denied.
func readPolicy(rules []specs.LinuxDeviceCgroup) (policy, error) {
	var p policy
	for _, r := range rules {
		access, err := readAccess(r.Access)
		if err != nil {
			return p, err
		}
		if r.Type == "" || r.Type == "a" {
			p = policy{allow: r.Allow}
			continue
		}
		if r.Type != "c" && r.Type != "b" {
			return p, fmt.Errorf("device rule of type %q: want a, b or c", r.Type)
		}
		d := device{r.Type[0], -1, -1, access}
		if r.Major != nil {
			d.major = *r.Major
		}
		if r.Minor != nil {
			d.minor = *r.Minor
		}
		p.set(d, r.Allow)
	}
	if !p.allow {
		for _, d := range always {
			p.set(d, true)
		}
	}
	return p, nil
}

// set adds an exception, or takes from one what the rule is not an exception for.
func (p *policy) set(d device, allow bool) {
	i := slices.IndexFunc(p.exceptions, func(e device) bool {
		return e.kind == d.kind && e.major == d.major && e.minor == d.minor
	})
	except := allow != p.allow
	if i < 0 {
		if except {
			p.exceptions = append(p.exceptions, d)
		}
		return
	}
	access := ""
	for _, c := range "rwm" {
		had, named := strings.ContainsRune(p.exceptions[i].access, c), strings.ContainsRune(d.access, c)
		if named && except || had && !named {
			access += string(c)
		}
		if had && named && !except {
			continue
		}
	}
	if p.exceptions[i].access = access; access == "" {
		p.exceptions = slices.Delete(p.exceptions, i, i+1)
	}
}

// open reports whether the policy denies nothing.
func (p policy) open() bool {
	if p.allow {
		return len(p.exceptions) == 0
	}
	all := func(kind byte) bool { return slices.Contains(p.exceptions, device{kind, -1, -1, "rwm"}) }
	return all('b') && all('c')
}

// DeniesDevices reports whether the rules of a spec keep any device from a
// container.
func DeniesDevices(r *specs.LinuxResources) bool {
	if r == nil {
		return true
	}
	p, err := readPolicy(r.Devices)
	return err != nil || !p.open()
}

func readAccess(s string) (string, error) {
	out := ""
	for _, c := range "rwm" {
		if strings.ContainsRune(s, c) {
			out += string(c)
		}
	}
	if len(out) != len(s) || s == "" {
		return "", fmt.Errorf("device rule with access %q: want letters of \"rwm\"", s)
	}
	return out, nil
}

// String is the form of the files of version 1.
func (d device) String() string {
	n := func(v int64) string {
		if v < 0 {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprintf("%c %s:%s %s", d.kind, n(d.major), n(d.minor), d.access)
}

// writeV1 sets the policy of a new group, which has its parent's to begin with.
func (p policy) writeV1(dir string) error {
	file := "devices.deny"
	if !p.allow {
		if err := write(dir, file, "a"); err != nil {
			return err
		}
		file = "devices.allow"
	}
	for _, d := range p.exceptions {
		if err := write(dir, file, d.String()); err != nil {
			return err
		}
	}
	return nil
}
