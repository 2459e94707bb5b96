package runtime

import (
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultMounts are those of Docker and BuildKit. /run is not among them, as
// with BuildKit: steps write there and expect to find it again.
func defaultMounts(o SpecOptions) []specs.Mount {
	access := "ro"
	if o.Insecure {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if !o.Rootless {
		return mounts
	}
	// A user namespace whose group 5 is not mapped cannot mount devpts with it,
	// and control groups show the host's tree.
	mounts[2].Options = []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	return mounts[:len(mounts)-1]
}

// BindSys has a container without a network namespace of its own see the host's
// /sys: a new sysfs shows the network, and only who owns that may mount it. A
// runtime without privileges outside a user namespace calls it, when the network
// is settled. s is not changed.
func BindSys(s *specs.Spec) *specs.Spec {
	own := func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }
	sys := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/sys" && m.Type == "sysfs" })
	if sys < 0 || s.Linux == nil || slices.ContainsFunc(s.Linux.Namespaces, own) {
		return s
	}
	out, l := *s, *s.Linux
	out.Linux, out.Mounts = &l, slices.Clone(s.Mounts)
	// With all that is mounted below, for the kernel does not let us look beneath.
	out.Mounts[sys] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
	l.MaskedPaths = append(slices.Clone(l.MaskedPaths), "/sys/fs/cgroup")
	return &out
}

// mergeMounts keeps one mount per destination: the last one, at the place of the
// first.
func mergeMounts(mounts []specs.Mount) []specs.Mount {
	at := make(map[string]int, len(mounts))
	var out []specs.Mount
	for _, m := range mounts {
		m.Destination = path.Clean(m.Destination)
		if i, ok := at[m.Destination]; ok {
			out[i] = m
			continue
		}
		at[m.Destination] = len(out)
		out = append(out, m)
	}
	return out
}

func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
		"/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
