package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemon is a running buildd.
type daemon struct {
	t    testing.TB
	Root string // state directory
	Addr string
	as   *account // who runs daemon and clients; nil is root
	args []string
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan error
}

// startDaemon starts buildd on a fresh state directory; it ends with the test,
// which fails if anything is left behind.
func startDaemon(t testing.TB, args ...string) *daemon {
	t.Helper()
	return startDaemonAs(t, nil, args...)
}

func startDaemonAs(t testing.TB, a *account, args ...string) *daemon {
	t.Helper()
	if a != nil {
		return startDaemonAt(t, filepath.Join(a.home, "state"), a, args...)
	}
	return startDaemonAt(t, filepath.Join(t.TempDir(), "state"), nil, args...)
}

// startDaemonAt starts buildd on a state directory that is there or not.
func startDaemonAt(t testing.TB, root string, a *account, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, Root: root, as: a, args: args, log: &syncBuffer{}}
	sock, err := os.MkdirTemp("", "bd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	d.Addr = "unix://" + filepath.Join(sock, "s")
	if a != nil {
		a.owns(t, sock)
	}
	d.start()
	t.Cleanup(func() {
		d.stop()
		os.RemoveAll(sock)
		d.checkClean()
		if t.Failed() {
			t.Logf("daemon's log:\n%s", d.logged())
		}
	})
	return d
}

// with returns the same daemon for the use in a subtest.
func (d *daemon) with(t testing.TB) *daemon {
	c := *d
	c.t = t
	return &c
}

// logged is the daemon's log without the calls that went well.
func (d *daemon) logged() string {
	var out strings.Builder
	for l := range strings.Lines(d.log.String()) {
		if !strings.Contains(l, "finished call") || !strings.Contains(l, "grpc.code=OK") {
			out.WriteString(l)
		}
	}
	return out.String()
}

func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command(filepath.Join(bin, "buildd"), append([]string{"--root", d.Root, "--addr", d.Addr, "--debug", "--config", os.DevNull}, d.args...)...)
	d.as.run(d.cmd)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.done = make(chan error, 1)
	go func(c *exec.Cmd, done chan error) { done <- c.Wait() }(d.cmd, d.done)
	network, path, _ := strings.Cut(d.Addr, "://")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial(network, path); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-d.done:
			d.cmd = nil
			d.t.Fatalf("daemon ended: %v\n%s", err, d.log)
		default:
		}
		if time.Now().After(end) {
			d.t.Fatalf("daemon does not listen\n%s", d.log)
		}
	}
}

// stop ends the daemon as an init system would.
func (d *daemon) stop() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(30 * time.Second):
		d.t.Error("daemon does not end")
		d.kill()
	}
	d.cmd = nil
}

// kill ends the daemon without a chance to tidy up.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
	d.cmd = nil
}

// checkClean fails the test if the daemon left a mount, a control group or a
// process behind.
func (d *daemon) checkClean() {
	d.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, d.Root) {
			d.t.Errorf("mount left behind: %s", l)
		}
	}
	own := "buildd-" + fmt.Sprintf("%x", sha256.Sum256([]byte(d.Root)))[:12]
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, _ := filepath.Glob(pattern + own)
		for _, g := range groups {
			d.t.Errorf("control group left behind: %s", g)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte(d.Root)) {
			d.t.Errorf("process left behind: %s %q", p, b)
		}
	}
}

// run is one call of the client.
type run struct {
	Out  string // standard output
	Err  string // standard error: the progress
	Exit int
}

// try runs buildctl against the daemon.
func (d *daemon) try(ctx context.Context, args ...string) run {
	return d.input(ctx, "", args...)
}

func (d *daemon) input(ctx context.Context, stdin string, args ...string) run {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "buildctl"), append([]string{"--addr", d.Addr}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+d.Root, "BUILDKIT_HOST=")
	d.as.run(cmd)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	r := run{Out: out.String(), Err: errs.String()}
	if err != nil {
		r.Exit = 1
		if x, ok := err.(*exec.ExitError); ok {
			r.Exit = x.ExitCode()
		}
	}
	return r
}

// ctl runs buildctl, which must succeed.
func (d *daemon) ctl(args ...string) run {
	d.t.Helper()
	r := d.try(d.t.Context(), args...)
	if r.Exit != 0 {
		d.t.Fatalf("buildctl %s: exit %d\n%s%s", strings.Join(args, " "), r.Exit, r.Out, r.Err)
	}
	return r
}

// fails runs buildctl, which must fail with all of want in what it says.
func (d *daemon) fails(want []string, args ...string) run {
	d.t.Helper()
	r := d.try(d.t.Context(), args...)
	if r.Exit == 0 {
		d.t.Fatalf("buildctl %s succeeded\n%s%s", strings.Join(args, " "), r.Out, r.Err)
	}
	for _, w := range want {
		if !strings.Contains(r.Err, w) {
			d.t.Errorf("buildctl %s: does not say %q:\n%s", strings.Join(args, " "), w, r.Err)
		}
	}
	return r
}

// context makes a build context of files by path.
func buildContext(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // other users build it too
		t.Fatal(err)
	}
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// busybox puts an image busybox:latest made of Debian's busybox-static into the
// daemon's store.
func (d *daemon) busybox() {
	d.t.Helper()
	d.ctl("image", "import", "busybox:latest", busyboxTar(d.t))
}

var busyboxOnce = sync.OnceValues(func() (string, error) {
	root := filepath.Join(tmp, "busybox")
	script := fmt.Sprintf(`set -e
mkdir -p %[1]s/bin %[1]s/etc %[1]s/tmp %[1]s/root %[1]s/var/tmp
cp /bin/busybox %[1]s/bin/busybox
for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox %[1]s/bin/$a; done
chmod 1777 %[1]s/tmp
printf 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/sh\n' > %[1]s/etc/passwd
printf 'root:x:0:\ndaemon:x:1:\n' > %[1]s/etc/group
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1 -C %[1]s -cf %[2]s/busybox.tar .
rm -r %[1]s`, root, tmp)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return "", fmt.Errorf("make busybox image: %w\n%s", err, out)
	}
	return filepath.Join(tmp, "busybox.tar"), nil
})

func busyboxTar(t testing.TB) string {
	t.Helper()
	p, err := busyboxOnce()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// syncBuffer is a buffer that a process writes while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
