package runtime

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func options(change ...func(*SpecOptions)) SpecOptions {
	o := SpecOptions{ID: "id", Root: "/root", Args: []string{"true"}}
	for _, f := range change {
		f(&o)
	}
	return o
}

func TestSpecDefaults(t *testing.T) {
	s, err := Spec(options())
	if err != nil {
		t.Fatal(err)
	}
	if s.Hostname != "buildkitsandbox" || s.Process.Cwd != "/" || s.Linux.CgroupsPath != "/buildd/id" || *s.Linux.Resources.Pids.Limit != DefaultPidsLimit {
		t.Errorf("hostname %s, cwd %s, cgroup %s", s.Hostname, s.Process.Cwd, s.Linux.CgroupsPath)
	}
	if len(s.Process.Env) != 1 || !strings.HasPrefix(s.Process.Env[0], "PATH=/usr/local/sbin:") {
		t.Errorf("environment %v", s.Process.Env)
	}
	if s.Linux.Seccomp == nil || len(s.Linux.MaskedPaths) == 0 || len(s.Process.Capabilities.Bounding) != 14 || s.Process.NoNewPrivileges {
		t.Error("not what Docker's containers have")
	}
	if len(s.Linux.Namespaces) != 6 {
		t.Errorf("namespaces %v", s.Linux.Namespaces)
	}
}

func TestSpecMounts(t *testing.T) {
	s, err := Spec(options(func(o *SpecOptions) {
		o.Env = []string{"PATH=/bin"}
		o.Mounts = []specs.Mount{
			{Destination: "/dev/shm/", Type: "tmpfs", Source: "mine"},
			{Destination: "/x", Type: "tmpfs", Source: "first"},
			{Destination: "/y", Type: "tmpfs"},
			{Destination: "/x", Type: "tmpfs", Source: "second"},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, m := range s.Mounts {
		places = append(places, m.Destination)
		if m.Destination == "/dev/shm" && m.Source != "mine" || m.Destination == "/x" && m.Source != "second" {
			t.Errorf("mount %+v", m)
		}
	}
	want := []string{"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup", "/x", "/y"}
	if !slices.Equal(places, want) {
		t.Errorf("mounts at %v, want %v", places, want)
	}
	if len(s.Process.Env) != 1 {
		t.Errorf("environment %v", s.Process.Env)
	}
}

func TestSpecErrors(t *testing.T) {
	for name, change := range map[string]func(*SpecOptions){
		"id":      func(o *SpecOptions) { o.ID = "../x" },
		"root":    func(o *SpecOptions) { o.Root = "x" },
		"cwd":     func(o *SpecOptions) { o.Cwd = "x" },
		"command": func(o *SpecOptions) { o.Args = nil },
		"systemd": func(o *SpecOptions) { o.CgroupParent = "system.slice:buildd:" },
		"mount":   func(o *SpecOptions) { o.Mounts = []specs.Mount{{Destination: "x"}} },
	} {
		if _, err := Spec(options(change)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSpecResourcesAreNotShared(t *testing.T) {
	limit := int64(1 << 30)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	s, err := Spec(options(func(o *SpecOptions) { o.Resources, o.PidsLimit = r, -1 }))
	if err != nil {
		t.Fatal(err)
	}
	if r.Pids != nil || r.Devices != nil {
		t.Error("the caller's resources were changed")
	}
	if *s.Linux.Resources.Pids.Limit != -1 || *s.Linux.Resources.Memory.Limit != limit {
		t.Error("limits are lost")
	}
}

func TestSpecInsecureAndRootless(t *testing.T) {
	s, err := Spec(options(func(o *SpecOptions) { o.Insecure = true }))
	if err != nil {
		t.Fatal(err)
	}
	if s.Linux.Seccomp != nil || len(s.Linux.MaskedPaths) != 0 || len(s.Linux.Devices) < 14 {
		t.Error("insecure is not")
	}
	s, err = Spec(options(func(o *SpecOptions) { o.Rootless, o.HostNetwork = true, true }))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Linux.MaskedPaths) == len(BindSys(s).Linux.MaskedPaths) {
		t.Error("control groups of the host can be seen in its /sys")
	}
	for _, m := range BindSys(s).Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" || slices.Contains(m.Options, "gid=5") {
			t.Errorf("mount %+v cannot be had", m)
		}
	}
}

func TestExitError(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		err     error
		text    string
		started bool
	}{
		{NewExitError(3), "exit code: 3", true},
		{NewExitError(137), "exit code: 137 (killed)", true},
		{&ExitError{Code: 137, OOM: true}, "exit code: 137: out of memory: a process was killed at the memory limit of the container", true},
		{&ExitError{Code: ExitNotFound, Err: cause}, "cause", false},
		{&ExitError{Code: ExitNotFound}, "exit code: 127", true},
		{cause, "cause", false},
	} {
		if c.err.Error() != c.text || Started(c.err) != c.started {
			t.Errorf("%q, started %v; want %q, %v", c.err, Started(c.err), c.text, c.started)
		}
	}
	if !Started(nil) || !errors.Is(&ExitError{Err: cause}, cause) || NewExitError(143).Signal != syscall.SIGTERM {
		t.Error("Started, Unwrap or Signal")
	}
}
