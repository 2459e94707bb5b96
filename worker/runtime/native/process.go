package native

import (
	"errors"
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native/seccomp"
	"github.com/buildd/buildd/worker/runtime/native/zygote"
)

const defaultUmask = 0o022

// processOf translates a process of the container that s is the spec of. What a
// further process leaves open it has as the first one.
func (r *Runtime) processOf(p *specs.Process, s *specs.Spec) (zygote.Process, error) {
	z := zygote.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		Umask:       defaultUmask,
		Terminal:    p.Terminal,
		NoNewPrivs:  p.NoNewPrivileges,
		OOMScoreAdj: p.OOMScoreAdj,
		AppArmor:    p.ApparmorProfile,
		StreamUID:   int(p.User.UID),
		KeepOwner:   r.config.KeepOwner,
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return z, errors.New("process: no command to execute")
	}
	if !path.IsAbs(p.Cwd) {
		return z, fmt.Errorf("working directory %q: want an absolute path", p.Cwd)
	}
	if p.SelinuxLabel != "" || p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil {
		return z, errors.New("process: SELinux labels, scheduling and I/O priorities are not supported by the native runtime")
	}
	for _, str := range append(append([]string{p.Cwd}, p.Args...), p.Env...) {
		if strings.ContainsRune(str, 0) {
			return z, fmt.Errorf("process: %q has a NUL character in it", str)
		}
	}
	for _, g := range p.User.AdditionalGids {
		z.Groups = append(z.Groups, int(g))
	}
	if p.User.Umask != nil {
		z.Umask = int(*p.User.Umask)
	}
	if c := p.ConsoleSize; c != nil {
		z.Rows, z.Cols = uint16(c.Height), uint16(c.Width)
	}
	caps, limits := p.Capabilities, p.Rlimits
	if caps == nil {
		caps = s.Process.Capabilities
	}
	if limits == nil {
		limits = s.Process.Rlimits
	}
	if z.AppArmor == "" {
		z.AppArmor = s.Process.ApparmorProfile
	}
	if err := capabilities(&z, caps); err != nil {
		return z, err
	}
	if err := rlimits(&z, limits); err != nil {
		return z, err
	}
	return z, r.confine(&z, s.Linux)
}

// confine sets what every process of a container has in common.
func (r *Runtime) confine(z *zygote.Process, l *specs.Linux) (err error) {
	for _, m := range l.UIDMappings {
		if id := uint32(z.UID); id >= m.ContainerID && id-m.ContainerID < m.Size {
			z.StreamUID = int(m.HostID + id - m.ContainerID)
		}
	}
	if l.Personality != nil {
		domain := map[specs.LinuxPersonalityDomain]uint64{specs.PerLinux: 0, specs.PerLinux32: 8}
		v, ok := domain[l.Personality.Domain]
		if !ok || len(l.Personality.Flags) > 0 {
			return fmt.Errorf("personality %q: want LINUX or LINUX32 without flags", l.Personality.Domain)
		}
		z.Personality = &v
	}
	if l.Seccomp == nil || l.Seccomp.DefaultAction == "" {
		return nil
	}
	if z.FilterFlags, err = seccomp.Flags(l.Seccomp); err != nil {
		return err
	}
	z.Filter, err = r.filters.get(l.Seccomp)
	return err
}

func capabilities(z *zygote.Process, c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	for _, set := range []struct {
		to    *uint64
		names []string
	}{
		{&z.Bounding, c.Bounding}, {&z.Effective, c.Effective}, {&z.Permitted, c.Permitted},
		{&z.Inheritable, c.Inheritable}, {&z.Ambient, c.Ambient},
	} {
		for _, name := range set.names {
			bit, err := runtime.CapabilityBit(name)
			if err != nil {
				return err
			}
			*set.to |= 1 << bit
		}
	}
	// What the daemon does not have it cannot give.
	own, err := ownCapabilities()
	if err != nil {
		return err
	}
	z.Effective &= own
	z.Permitted &= own
	z.Inheritable &= own
	return nil
}

func ownCapabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read the daemon's capabilities: %w", err)
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

var resources = map[string]int{
	"AS": unix.RLIMIT_AS, "CORE": unix.RLIMIT_CORE, "CPU": unix.RLIMIT_CPU, "DATA": unix.RLIMIT_DATA,
	"FSIZE": unix.RLIMIT_FSIZE, "LOCKS": unix.RLIMIT_LOCKS, "MEMLOCK": unix.RLIMIT_MEMLOCK,
	"MSGQUEUE": unix.RLIMIT_MSGQUEUE, "NICE": unix.RLIMIT_NICE, "NOFILE": unix.RLIMIT_NOFILE,
	"NPROC": unix.RLIMIT_NPROC, "RSS": unix.RLIMIT_RSS, "RTPRIO": unix.RLIMIT_RTPRIO,
	"RTTIME": unix.RLIMIT_RTTIME, "SIGPENDING": unix.RLIMIT_SIGPENDING, "STACK": unix.RLIMIT_STACK,
}

func rlimits(z *zygote.Process, limits []specs.POSIXRlimit) error {
	for _, l := range limits {
		n, ok := resources[strings.TrimPrefix(l.Type, "RLIMIT_")]
		if !ok {
			return fmt.Errorf("resource limit %q is unknown: want a name such as RLIMIT_NOFILE", l.Type)
		}
		if l.Soft > l.Hard {
			return fmt.Errorf("resource limit %s: the soft limit %d is above the hard one, %d", l.Type, l.Soft, l.Hard)
		}
		z.Rlimits = append(z.Rlimits, zygote.Rlimit{Resource: n, Soft: l.Soft, Hard: l.Hard})
	}
	return nil
}
