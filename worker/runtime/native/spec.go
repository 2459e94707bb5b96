package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/cgroup"
	"github.com/buildd/buildd/worker/runtime/native/zygote"
)

// container translates a spec for the zygote, and refuses what it would have to
// leave out.
func (r *Runtime) container(s *specs.Spec) (*zygote.Container, error) {
	if s == nil || s.Root == nil || s.Linux == nil || s.Process == nil {
		return nil, errors.New("spec: want root, linux and process in it")
	}
	if err := supported(s); err != nil {
		return nil, err
	}
	if !path.IsAbs(s.Root.Path) {
		return nil, fmt.Errorf("root %q: want an absolute path", s.Root.Path)
	}
	if r.config.Rootless {
		s = runtime.BindSys(s)
	}
	c := &zygote.Container{
		Root:         s.Root.Path,
		ReadonlyRoot: s.Root.Readonly,
		Hostname:     s.Hostname,
		Domainname:   s.Domainname,
		Masked:       s.Linux.MaskedPaths,
		Readonly:     s.Linux.ReadonlyPaths,
		Sysctl:       s.Linux.Sysctl,
		Rootless:     r.config.Rootless,
	}
	if err := namespaces(c, s.Linux); err != nil {
		return nil, err
	}
	if err := checkSysctl(c); err != nil {
		return nil, err
	}
	for _, m := range s.Mounts {
		t, err := mount(m)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		c.Mounts = append(c.Mounts, t)
	}
	var err error
	c.Devices, err = devices(s.Linux.Devices)
	return c, err
}

// supported returns an error if the spec asks for what this runtime does not do.
func supported(s *specs.Spec) error {
	l := s.Linux
	for what, asked := range map[string]bool{
		"hooks":              s.Hooks != nil,
		"linux.mountLabel":   l.MountLabel != "",
		"linux.intelRdt":     l.IntelRdt != nil,
		"linux.timeOffsets":  len(l.TimeOffsets) > 0,
		"linux.netDevices":   len(l.NetDevices) > 0,
		"linux.memoryPolicy": l.MemoryPolicy != nil,
		"linux.rootfsPropagation of a shared mount": strings.Contains(l.RootfsPropagation, "shared"),
	} {
		if asked {
			return fmt.Errorf("spec: %s is not supported by the native runtime: use an OCI runtime such as runc", what)
		}
	}
	return nil
}

func namespaces(c *zygote.Container, l *specs.Linux) error {
	have := make(map[specs.LinuxNamespaceType]bool)
	for _, n := range l.Namespaces {
		have[n.Type] = true
		switch n.Type {
		case specs.NetworkNamespace:
			c.Net, c.NewNet = hostPath(n.Path), n.Path == ""
		case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace, specs.UserNamespace:
			if n.Path != "" {
				return fmt.Errorf("%s namespace %s: only a network namespace can be joined", n.Type, n.Path)
			}
		default:
			return fmt.Errorf("namespace of type %q is not supported", n.Type)
		}
	}
	for _, n := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
		if !have[n] {
			return fmt.Errorf("spec: a container without a %s namespace of its own is not supported", n)
		}
	}
	if !have[specs.UserNamespace] {
		return nil
	}
	if len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0 {
		return errors.New("user namespace: want uidMappings and gidMappings")
	}
	c.UIDMap, c.GIDMap = mapping(l.UIDMappings), mapping(l.GIDMappings)
	return nil
}

func mapping(maps []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// checkSysctl lets only those parameters pass that the container's namespaces
// have of their own; all others are the host's.
func checkSysctl(c *zygote.Container) error {
	for key := range c.Sysctl {
		own := strings.HasPrefix(key, "net.") && (c.NewNet || c.Net != "") ||
			strings.HasPrefix(key, "fs.mqueue.") || strings.HasPrefix(key, "kernel.shm") ||
			strings.HasPrefix(key, "kernel.msg") || key == "kernel.sem"
		if !own || strings.Contains(key, "/") || strings.Contains(key, "..") {
			return fmt.Errorf("sysctl %q: want one of the container's own namespaces: net., fs.mqueue., kernel.shm, kernel.msg or kernel.sem", key)
		}
	}
	return nil
}

// hostPath makes the daemon's own descriptors reachable for the zygote.
func hostPath(p string) string {
	if rest, ok := strings.CutPrefix(p, "/proc/self/"); ok {
		return "/proc/" + strconv.Itoa(os.Getpid()) + "/" + rest
	}
	return p
}

// defaultDevices are those of every container.
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

func devices(more []specs.LinuxDevice) ([]zygote.Device, error) {
	types := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	var out []zygote.Device
	for _, d := range append(append([]specs.LinuxDevice(nil), defaultDevices...), more...) {
		kind, ok := types[d.Type]
		if !ok || !path.IsAbs(d.Path) {
			return nil, fmt.Errorf("device %q of type %q: want an absolute path and a type of b, c, u, p", d.Path, d.Type)
		}
		t := zygote.Device{Path: d.Path, Mode: kind | 0o666, Major: uint32(d.Major), Minor: uint32(d.Minor)}
		if d.FileMode != nil {
			t.Mode = kind | uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			t.UID = int(*d.UID)
		}
		if d.GID != nil {
			t.GID = int(*d.GID)
		}
		out = append(out, t)
	}
	return out, nil
}

// group makes the container's control group. Without privileges there may be no
// way to: containers then run without limits, and the log says so once.
func (r *Runtime) group(s *specs.Spec) (*cgroup.Group, error) {
	if r.cgroups == nil || s.Linux.CgroupsPath == "" {
		return nil, nil
	}
	g, err := r.cgroups.Create(path.Clean(s.Linux.CgroupsPath), s.Linux.Resources)
	if err != nil && r.config.Rootless {
		r.warnLimits(err)
		return nil, nil
	}
	return g, err
}

// groupMounts shows the container its control groups, where the spec has them
// mounted.
func groupMounts(c *zygote.Container, g *cgroup.Group) {
	for i, m := range c.Mounts {
		if m.Kind == zygote.KindGroup {
			c.Mounts[i].Groups = g.Dirs()
		}
	}
}
