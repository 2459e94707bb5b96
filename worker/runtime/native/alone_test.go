package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/cgroup"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

// output is a stream that keeps what is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (*output) Close() error { return nil }

// parent is a control group of this process's own.
var parent = fmt.Sprintf("/buildd-native-test-%d", os.Getpid())

func removeParent() {
	for _, pattern := range []string{"/sys/fs/cgroup" + parent, "/sys/fs/cgroup/*" + parent} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	}
}

func open(t *testing.T, c Config) *Runtime {
	t.Helper()
	runtimetest.Require(t)
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		removeParent()
	})
	return r
}

func spec(t *testing.T, o runtime.SpecOptions) *specs.Spec {
	t.Helper()
	o.CgroupParent = parent
	s, err := runtime.Spec(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, r *Runtime, s *specs.Spec) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out output
	err := r.Run(ctx, fmt.Sprintf("alone-%d", time.Now().UnixNano()), runtime.Sandbox{Spec: s}, runtime.Process{Stdout: &out, Stderr: &out})
	return out.String(), err
}

func sh(root, script string) runtime.SpecOptions {
	return runtime.SpecOptions{ID: "x", Root: root, Args: []string{"/bin/sh", "-c", script}}
}

// TestUserNamespace runs a container whose root is nobody on the host.
func TestUserNamespace(t *testing.T) {
	r := open(t, Config{})
	root := runtimetest.Rootfs(t)
	const base = 200000
	err := filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, base, base)
	})
	if err != nil {
		t.Fatal(err)
	}
	o := sh(root, `cat /proc/self/uid_map; id -u; touch /made; chown 5:6 /made; stat -c %u:%g /made /proc/1; echo x >/dev/stderr; ls -l /dev/null; echo 1 >/dev/null && grep Cap /proc/self/status`)
	o.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	o.GIDMappings = o.UIDMappings
	out, err := run(t, r, spec(t, o))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"0     200000      65536", "\n5:6\n0:0\n", "x\n", "CapEff:\t00000000a80425fb"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %q", want, out)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "made"), &st); err != nil || st.Uid != base+5 || st.Gid != base+6 {
		t.Errorf("owner on the host %d:%d, %v; want %d:%d", st.Uid, st.Gid, err, base+5, base+6)
	}
	// A further process joins it.
	s := spec(t, o)
	s.Process.Args = []string{"/bin/probe", "sleep"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, started := make(chan error, 1), make(chan struct{})
	go func() {
		done <- r.Run(ctx, "user", runtime.Sandbox{Spec: s}, runtime.Process{Started: func() { close(started) }})
	}()
	select {
	case <-started:
	case err := <-done:
		t.Fatal(err)
	}
	var got output
	err = r.Exec(t.Context(), "user", runtime.Process{Stdout: &got, Stderr: &got, Spec: &specs.Process{
		Args: []string{"/bin/cat", "/proc/self/uid_map"}, Cwd: "/",
	}})
	if err != nil || !strings.Contains(got.String(), "200000") {
		t.Errorf("joined: %q, %v", got.String(), err)
	}
	cancel()
	<-done
}

// TestOwnProgramIsSealed has the daemon's own program executed in the container by
// way of /proc/self/exe, as attacks do that then write to it.
func TestOwnProgramIsSealed(t *testing.T) {
	r := open(t, Config{})
	root := runtimetest.Rootfs(t)
	if err := os.WriteFile(filepath.Join(root, "attack"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := runtime.SpecOptions{ID: "x", Root: root, Args: []string{"/attack"}, Env: []string{attackEnv + "=1"}}
	for _, dir := range []string{"/lib", "/lib64", "/usr"} { // where this program is linked dynamically
		if _, err := os.Stat(dir); err == nil {
			o.Mounts = append(o.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
		}
	}
	out, err := run(t, r, spec(t, o))
	if err != nil || !strings.Contains(out, "read-only") {
		t.Errorf("%q, %v; want read-only", out, err)
	}
}

const attackEnv = "BUILDD_TEST_ATTACK"

// attack tells whether its own file could be written to.
func attack() {
	var st unix.Statfs_t
	err := unix.Statfs("/proc/self/exe", &st)
	if err == nil && st.Flags&unix.ST_RDONLY != 0 {
		fmt.Println("read-only")
		return
	}
	fmt.Println("could be written to", err)
}

func TestRefusals(t *testing.T) {
	r := open(t, Config{})
	root := runtimetest.Rootfs(t)
	for name, change := range map[string]func(*specs.Spec){
		"hooks":       func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
		"mount label": func(s *specs.Spec) { s.Linux.MountLabel = "x" },
		"selinux":     func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"host pid": func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}
		},
		"path of a pid namespace": func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"sysctl of the host":      func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		"sysctl path":             func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net./../kernel.panic": "1"} },
		"relative mount": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "x", Type: "tmpfs"})
		},
		"mount on the root": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/", Type: "tmpfs"})
		},
		"capability": func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_NONE"} },
		"rlimit":     func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONE"}} },
		"NUL":        func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} },
		"seccomp":    func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NONE"} },
		"network":    func(s *specs.Spec) { s.Linux.Namespaces[5].Path = "/proc/self/ns/mnt" },
	} {
		s := spec(t, sh(root, "true"))
		change(s)
		_, err := run(t, r, s)
		var e *runtime.ExitError
		if err == nil || errors.As(err, &e) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	// What is refused does no harm to what follows.
	if _, err := run(t, r, spec(t, sh(root, "true"))); err != nil {
		t.Error(err)
	}
}

func TestSysctlAndPersonality(t *testing.T) {
	r := open(t, Config{})
	s := spec(t, sh(runtimetest.Rootfs(t), "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; cat /proc/self/oom_score_adj"))
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shmmni": "123"}
	adj := 500
	s.Process.OOMScoreAdj = &adj
	if out, err := run(t, r, s); err != nil || out != "7\n123\n500\n" {
		t.Errorf("%q, %v", out, err)
	}
	if b, _ := os.ReadFile("/proc/sys/kernel/shmmni"); string(b) == "123\n" {
		t.Error("the host's parameter has changed")
	}
}

// TestUnifiedCgroups runs a container in a group of version 2, on a host that has
// at least an empty hierarchy of it.
func TestUnifiedCgroups(t *testing.T) {
	place := "/sys/fs/cgroup/unified"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		place = "/sys/fs/cgroup"
	} else if _, err := os.Stat(place + "/cgroup.procs"); err != nil {
		t.Skip("SKIPPED: no control groups of version 2")
	}
	r := open(t, Config{})
	var err error
	r.cgroups, err = cgroup.Parse(strings.NewReader("1 1 0:1 / " + place + " rw - cgroup2 cgroup2 rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	o := sh(runtimetest.Rootfs(t), `grep ^0: /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs; grep -c . /sys/fs/cgroup/cgroup.procs
echo x >/dev/null && head -c 1 /dev/zero >/dev/null && echo devices
mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; mknod /tmp/mem b 254 0 && cat /tmp/mem; true`)
	o.PidsLimit = -1 // the hierarchy may have no controllers
	out, err := run(t, r, spec(t, o))
	want := "0::/\n/sys/fs/cgroup/cgroup.procs\n2\ndevices\ncat: can't open '/tmp/kmsg': Operation not permitted\ncat: can't open '/tmp/mem': Operation not permitted\n"
	if err != nil || out != want {
		t.Errorf("%v: got %q, want %q", err, out, want)
	}
	// One that joins is in the group as well.
	s := spec(t, o)
	s.Process.Args = []string{"/bin/probe", "sleep"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, started := make(chan error, 1), make(chan struct{})
	go func() {
		done <- r.Run(ctx, "unified", runtime.Sandbox{Spec: s}, runtime.Process{Started: func() { close(started) }})
	}()
	<-started
	var got output
	err = r.Exec(t.Context(), "unified", runtime.Process{Stdout: &got, Stderr: &got, Spec: &specs.Process{
		Args: []string{"/bin/sh", "-c", "grep ^0: /proc/self/cgroup; rm -f /tmp/kmsg; mknod /tmp/kmsg c 1 11; cat /tmp/kmsg"}, Cwd: "/", Env: []string{"PATH=/bin"},
	}})
	if err == nil || !strings.HasPrefix(got.String(), "0::/\n") || !strings.Contains(got.String(), "not permitted") {
		t.Errorf("joined: %q, %v", got.String(), err)
	}
	cancel()
	<-done
}

// TestWithoutControlGroups: what guards devices is missing, so the container gets
// none but those of every container.
func TestWithoutControlGroups(t *testing.T) {
	var log output
	r := open(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r.cgroups = nil
	root := runtimetest.Rootfs(t)
	if err := unix.Mknod(filepath.Join(root, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	o := sh(root, "mknod /tmp/x c 1 11; cat /kmsg; cat /mnt/kmsg; cat /dev/shm/kmsg; echo x >/dev/null && head -c 1 /dev/zero | wc -c")
	o.Mounts = []specs.Mount{{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind", "dev"}}}
	for range 2 {
		out, err := run(t, r, spec(t, o))
		for _, want := range []string{"mknod: /tmp/x: Operation not permitted", "'/kmsg': Permission denied", "'/mnt/kmsg': Permission denied", "1\n"} {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("%v: %q is not in %q", err, want, out)
			}
		}
	}
	if n := strings.Count(log.String(), "CAP_MKNOD"); n != 1 {
		t.Errorf("%d warnings, want one: %s", n, log.String())
	}
}
