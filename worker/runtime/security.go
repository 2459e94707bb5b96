package runtime

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// DefaultCapabilities are Docker's.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
		"CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// secure sets capabilities, the seccomp filter, masked and read-only paths, and
// devices.
func (o *SpecOptions) secure(s *specs.Spec) error {
	if o.Insecure {
		return o.insecure(s)
	}
	caps := DefaultCapabilities()
	// The kernel takes them from a user other than root when it executes, but for
	// the bounding set.
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Linux.MaskedPaths = maskedPaths()
	s.Linux.ReadonlyPaths = readonlyPaths()
	switch {
	case o.Seccomp != nil && o.Seccomp.DefaultAction == "":
	case o.Seccomp != nil:
		s.Linux.Seccomp = o.Seccomp
	case SeccompEnabled():
		profile, err := defaultSeccomp()
		if err != nil {
			return err
		}
		s.Linux.Seccomp = profile
	}
	return nil
}

func (o *SpecOptions) insecure(s *specs.Spec) error {
	caps, err := currentCapabilities()
	if err != nil {
		return err
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps,
	}
	s.Process.ApparmorProfile = ""
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Access: "rwm"},
		{Allow: true, Type: "b", Access: "rwm"},
	}
	if !o.Rootless {
		s.Linux.Devices = append(s.Linux.Devices, insecureDevices()...)
	}
	return nil
}

// insecureDevices are the device nodes that BuildKit adds for security.insecure.
func insecureDevices() []specs.LinuxDevice {
	devs := []specs.LinuxDevice{
		{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11},
		{Path: "/dev/cuse", Type: "c", Major: 10, Minor: 203},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229},
		{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232},
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
		{Path: "/dev/loop-control", Type: "c", Major: 10, Minor: 237},
	}
	// Loop devices made later than the container are not seen in it, so there
	// are some more than the next free one.
	for i := range nextLoop() + 8 {
		devs = append(devs, specs.LinuxDevice{Path: fmt.Sprintf("/dev/loop%d", i), Type: "b", Major: 7, Minor: int64(i)})
	}
	return devs
}

func nextLoop() int {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	n, err := unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return 0
	}
	return n
}

// SeccompEnabled reports whether the kernel has seccomp filters.
var SeccompEnabled = sync.OnceValue(func() bool {
	// EFAULT: the mode is known and the (missing) filter was looked for.
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0) == unix.EFAULT
})

// defaultSeccomp is Docker's profile for the default capabilities. It is shared:
// who wants another one makes a copy.
var defaultSeccomp = sync.OnceValues(func() (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: DefaultCapabilities()},
	}})
	if err != nil {
		return nil, fmt.Errorf("load default seccomp profile: %w", err)
	}
	return p, nil
})

// currentCapabilities are the names of what the daemon may do itself, which is
// the most that it can give away.
var currentCapabilities = sync.OnceValues(func() ([]string, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return nil, fmt.Errorf("read the daemon's capabilities: %w", err)
	}
	permitted := uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
	var names []string
	for name, bit := range capabilityBits {
		if permitted&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
})

// CapabilityBit returns the number of a capability such as "CAP_CHOWN".
func CapabilityBit(name string) (uint, error) {
	if bit, ok := capabilityBits[name]; ok {
		return bit, nil
	}
	if bit, ok := capabilityBits["CAP_"+strings.ToUpper(name)]; ok {
		return bit, nil
	}
	return 0, fmt.Errorf("capability %q is unknown: want a name such as CAP_CHOWN", name)
}

var capabilityBits = map[string]uint{
	"CAP_CHOWN":              unix.CAP_CHOWN,
	"CAP_DAC_OVERRIDE":       unix.CAP_DAC_OVERRIDE,
	"CAP_DAC_READ_SEARCH":    unix.CAP_DAC_READ_SEARCH,
	"CAP_FOWNER":             unix.CAP_FOWNER,
	"CAP_FSETID":             unix.CAP_FSETID,
	"CAP_KILL":               unix.CAP_KILL,
	"CAP_SETGID":             unix.CAP_SETGID,
	"CAP_SETUID":             unix.CAP_SETUID,
	"CAP_SETPCAP":            unix.CAP_SETPCAP,
	"CAP_LINUX_IMMUTABLE":    unix.CAP_LINUX_IMMUTABLE,
	"CAP_NET_BIND_SERVICE":   unix.CAP_NET_BIND_SERVICE,
	"CAP_NET_BROADCAST":      unix.CAP_NET_BROADCAST,
	"CAP_NET_ADMIN":          unix.CAP_NET_ADMIN,
	"CAP_NET_RAW":            unix.CAP_NET_RAW,
	"CAP_IPC_LOCK":           unix.CAP_IPC_LOCK,
	"CAP_IPC_OWNER":          unix.CAP_IPC_OWNER,
	"CAP_SYS_MODULE":         unix.CAP_SYS_MODULE,
	"CAP_SYS_RAWIO":          unix.CAP_SYS_RAWIO,
	"CAP_SYS_CHROOT":         unix.CAP_SYS_CHROOT,
	"CAP_SYS_PTRACE":         unix.CAP_SYS_PTRACE,
	"CAP_SYS_PACCT":          unix.CAP_SYS_PACCT,
	"CAP_SYS_ADMIN":          unix.CAP_SYS_ADMIN,
	"CAP_SYS_BOOT":           unix.CAP_SYS_BOOT,
	"CAP_SYS_NICE":           unix.CAP_SYS_NICE,
	"CAP_SYS_RESOURCE":       unix.CAP_SYS_RESOURCE,
	"CAP_SYS_TIME":           unix.CAP_SYS_TIME,
	"CAP_SYS_TTY_CONFIG":     unix.CAP_SYS_TTY_CONFIG,
	"CAP_MKNOD":              unix.CAP_MKNOD,
	"CAP_LEASE":              unix.CAP_LEASE,
	"CAP_AUDIT_WRITE":        unix.CAP_AUDIT_WRITE,
	"CAP_AUDIT_CONTROL":      unix.CAP_AUDIT_CONTROL,
	"CAP_SETFCAP":            unix.CAP_SETFCAP,
	"CAP_MAC_OVERRIDE":       unix.CAP_MAC_OVERRIDE,
	"CAP_MAC_ADMIN":          unix.CAP_MAC_ADMIN,
	"CAP_SYSLOG":             unix.CAP_SYSLOG,
	"CAP_WAKE_ALARM":         unix.CAP_WAKE_ALARM,
	"CAP_BLOCK_SUSPEND":      unix.CAP_BLOCK_SUSPEND,
	"CAP_AUDIT_READ":         unix.CAP_AUDIT_READ,
	"CAP_PERFMON":            unix.CAP_PERFMON,
	"CAP_BPF":                unix.CAP_BPF,
	"CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
}
