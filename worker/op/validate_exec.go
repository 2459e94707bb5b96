package op

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

func validateExec(x *pb.ExecOp, inputs int64) error {
	if x == nil || x.Meta == nil {
		return errors.New("exec has no meta")
	}
	if err := validateMeta(x.Meta); err != nil {
		return err
	}
	if _, ok := pb.NetMode_name[int32(x.Network)]; !ok {
		return fmt.Errorf("exec: network mode %d is unknown", x.Network)
	}
	if _, ok := pb.SecurityMode_name[int32(x.Security)]; !ok {
		return fmt.Errorf("exec: security mode %d is unknown", x.Security)
	}
	if err := validateSecretEnv(x.Secretenv); err != nil {
		return err
	}
	for _, d := range x.CdiDevices {
		if d == nil || d.Name == "" {
			return errors.New("exec: CDI device has no name")
		}
	}
	return validateMounts(x.Mounts, inputs, x.Meta.Cwd)
}

func validateSecretEnv(env []*pb.SecretEnv) error {
	for _, e := range env {
		if e == nil || e.ID == "" {
			return fmt.Errorf("secret ID missing for %q environment variable", e.GetName())
		}
		if e.Name == "" || strings.ContainsAny(e.Name, "=\x00") {
			return fmt.Errorf("secret %q: environment variable %q is no name", e.ID, e.Name)
		}
		if err := checkName("secret ID", e.ID, maxName); err != nil {
			return err
		}
	}
	return nil
}

func validateMeta(m *pb.Meta) error {
	if len(m.Args) == 0 || m.Args[0] == "" {
		return errors.New("exec has no arguments")
	}
	for what, list := range map[string][]string{"arguments": m.Args, "environment": m.Env} {
		n := 0
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("exec: %s: %q has a zero byte", what, s)
			}
			n += len(s) + 1
		}
		if n > maxArgs {
			return fmt.Errorf("exec: %s of %d bytes: at most %d are allowed", what, n, maxArgs)
		}
	}
	if err := checkPath("working directory", m.Cwd); err != nil {
		return err
	}
	if err := checkName("user", m.User, maxUser); err != nil {
		return err
	}
	if err := validateHostname(m.Hostname); err != nil {
		return err
	}
	if err := checkPath("cgroup parent", m.CgroupParent); err != nil {
		return err
	}
	if err := validateHosts(m.ExtraHosts); err != nil {
		return err
	}
	return validateUlimits(m.Ulimit)
}

func validateHostname(name string) error {
	if strings.ContainsAny(name, " \t#") {
		return fmt.Errorf("hostname %q has a blank or #", name)
	}
	return checkName("hostname", name, 64) // HOST_NAME_MAX
}

func validateHosts(hosts []*pb.HostIP) error {
	for _, h := range hosts {
		if h == nil || h.Host == "" {
			return errors.New("extra host has no name")
		}
		if strings.ContainsAny(h.Host, " \t\r\n#\x00") || len(h.Host) > 255 {
			return fmt.Errorf("extra host %q is no host name", h.Host)
		}
		if net.ParseIP(h.IP) == nil {
			return fmt.Errorf("extra host %s: %q is no IP address", h.Host, h.IP)
		}
	}
	return nil
}

// rlimits are the names of setrlimit(2) in the form that pb.Ulimit has them.
var rlimits = map[string]bool{
	"as": true, "core": true, "cpu": true, "data": true, "fsize": true, "locks": true, "memlock": true, "msgqueue": true,
	"nice": true, "nofile": true, "nproc": true, "rss": true, "rtprio": true, "rttime": true, "sigpending": true, "stack": true,
}

func validateUlimits(limits []*pb.Ulimit) error {
	for _, u := range limits {
		if u == nil || !rlimits[strings.ToLower(u.Name)] {
			return fmt.Errorf("ulimit %q is unknown", u.GetName())
		}
		// -1 is unlimited, which as an unsigned number is the highest.
		if uint64(u.Soft) > uint64(u.Hard) {
			return fmt.Errorf("ulimit %s: soft limit %d is above hard limit %d", u.Name, u.Soft, u.Hard)
		}
		if u.Soft < -1 || u.Hard < -1 {
			return fmt.Errorf("ulimit %s: limits %d and %d: want -1 or more", u.Name, u.Soft, u.Hard)
		}
	}
	return nil
}

// outputOf returns the output that a mount makes. Clients leave the field of
// mounts that cannot have any at 0.
func outputOf(m *pb.Mount) int64 {
	if m.MountType != pb.MountType_BIND && m.MountType != pb.MountType_CACHE {
		return none
	}
	return m.Output
}

func validateMounts(mounts []*pb.Mount, inputs int64, cwd string) error {
	if len(mounts) > maxMounts {
		return fmt.Errorf("exec has %d mounts: at most %d are allowed", len(mounts), maxMounts)
	}
	roots, outs := 0, outputs{}
	for i, m := range mounts {
		if m == nil {
			return fmt.Errorf("mount %d is empty", i)
		}
		if m.Dest == pb.RootMount {
			roots++
		}
		err := validateMount(m, inputs, cwd)
		if err == nil {
			err = outs.add(outputOf(m), len(mounts))
		}
		if err != nil {
			return fmt.Errorf("mount %q: %w", m.Dest, err)
		}
	}
	if roots != 1 {
		return fmt.Errorf("exec has %d mounts at /: want exactly one", roots)
	}
	if err := outs.check(); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	return nil
}

func validateMount(m *pb.Mount, inputs int64, cwd string) error {
	if err := input(m.Input, inputs); err != nil {
		return err
	}
	if err := checkPath("target", m.Dest); err != nil {
		return err
	}
	if err := checkPath("selector", m.Selector); err != nil {
		return err
	}
	if m.Dest != pb.RootMount && mountDest(m.Dest, cwd) == "/" {
		return errors.New("target is the root directory, which is mounted by itself")
	}
	if m.Dest == pb.RootMount && clean(m.Selector) != "/" {
		return fmt.Errorf("the root file system cannot be the part %q of an input", m.Selector)
	}
	if m.Dest == pb.RootMount && m.MountType != pb.MountType_BIND {
		return fmt.Errorf("invalid mount type %s for /", m.MountType)
	}
	switch m.MountType {
	case pb.MountType_BIND:
		if m.Input == none && clean(m.Selector) != "/" {
			return fmt.Errorf("part %q of a mount without input", m.Selector)
		}
	case pb.MountType_CACHE:
		return validateCache(m)
	case pb.MountType_TMPFS:
		if m.TmpfsOpt.GetSize() < 0 {
			return fmt.Errorf("tmpfs of %d bytes", m.TmpfsOpt.Size)
		}
	case pb.MountType_SECRET:
		if m.SecretOpt.GetID() == "" {
			return errors.New("secret ID missing from mount options")
		}
		return checkName("secret ID", m.SecretOpt.ID, maxName)
	case pb.MountType_SSH:
		if m.SSHOpt == nil {
			return errors.New("ssh mount has no options")
		}
		return checkName("ssh ID", m.SSHOpt.ID, maxName)
	default:
		return fmt.Errorf("mount type %d is unknown", m.MountType)
	}
	return nil
}

func validateCache(m *pb.Mount) error {
	if m.CacheOpt == nil {
		return errors.New("cache mount has no options")
	}
	if _, ok := pb.CacheSharingOpt_name[int32(m.CacheOpt.Sharing)]; !ok {
		return fmt.Errorf("cache sharing %d is unknown: want shared, private or locked", m.CacheOpt.Sharing)
	}
	if m.Output != none && m.Input == none {
		return errors.New("a cache mount without input has no output")
	}
	return checkName("cache ID", m.CacheOpt.ID, maxPath)
}

// mountDest returns the absolute target of a mount.
func mountDest(dest, cwd string) string {
	if !path.IsAbs(dest) {
		dest = path.Join("/", cwd, dest)
	}
	return path.Clean(dest)
}
