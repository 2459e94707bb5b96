package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// alone is a state directory for clients that start their own daemon. Nothing
// may be left of it when the test ends.
func alone(t *testing.T) *daemon {
	t.Helper()
	if _, err := os.Stat("/run/buildd/buildd.sock"); err == nil {
		t.Skip("SKIPPED: a daemon may listen at /run/buildd/buildd.sock, which clients would use")
	}
	d := &daemon{t: t, Root: filepath.Join(t.TempDir(), "state"), log: &syncBuffer{}}
	t.Cleanup(func() {
		// The daemon of a killed client ends a moment later.
		for end := time.Now().Add(20 * time.Second); processes(d.Root) > 0 && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		d.checkClean()
	})
	return d
}

// command returns a call of buildctl that knows no daemon.
func (d *daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "buildctl"), append([]string{"--root", d.Root}, args...)...)
	cmd.Env = append(os.Environ(), "BUILDKIT_HOST=", "BUILDKITD_CONFIG="+os.DevNull)
	return cmd
}

func (d *daemon) without(args ...string) string {
	d.t.Helper()
	out, err := d.command(d.t.Context(), args...).CombinedOutput()
	if err != nil {
		d.t.Errorf("buildctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestDaemonless(t *testing.T) {
	d := alone(t)
	d.without("image", "import", "busybox", busyboxTar(t))
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo here > /x\n"})
	d.without("build", "-t", "x", ctx)
	if out := d.without("build", "--progress=plain", "-t", "x", ctx); !strings.Contains(out, "CACHED") {
		t.Errorf("the second build runs again:\n%s", out)
	}
	if out := d.without("image", "ls", "-q"); !strings.Contains(out, "docker.io/library/x:latest") {
		t.Errorf("images: %s", out)
	}
	for end := time.Now().Add(15 * time.Second); processes(d.Root) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) { // the daemon ends after its last client
			t.Fatalf("%d processes are left", processes(d.Root))
		}
	}
}

// TestDaemonlessTogether holds that clients at the same time share a daemon, and
// that it outlives the first one for the others.
func TestDaemonlessTogether(t *testing.T) {
	d := alone(t)
	d.without("image", "import", "busybox", busyboxTar(t))
	var all sync.WaitGroup
	for _, n := range []string{"0", "1", "2", "3"} {
		ctx := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep " + n + "\n"})
		all.Go(func() { d.without("build", ctx) })
	}
	all.Wait()
}

// TestDaemonlessKill kills the client during a step.
func TestDaemonlessKill(t *testing.T) {
	d := alone(t)
	d.without("image", "import", "busybox", busyboxTar(t))
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 5432\n"})
	for range 3 {
		cmd := d.command(t.Context(), "build", ctx)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * time.Second); processes("sleep\x005432") == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the step does not start")
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		for end := time.Now().Add(20 * time.Second); processes(d.Root)+processes("sleep\x005432") > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d processes outlive the client", processes(d.Root))
			}
		}
	}
	d.without("build", buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
}

func TestDaemonlessInterrupt(t *testing.T) {
	d := alone(t)
	d.without("image", "import", "busybox", busyboxTar(t))
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 6543\n"})
	cmd := d.command(t.Context(), "build", ctx)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); processes("sleep\x006543") == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the step does not start")
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d", code)
	}
	if n := processes(d.Root); n > 0 {
		t.Errorf("%d processes are left when the client has ended", n)
	}
}

func TestDaemonlessFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := alone(t)
	d.Root = filepath.Join(file, "state")
	out, err := d.command(t.Context(), "du").CombinedOutput()
	if err == nil || !strings.Contains(string(out), d.Root) || !strings.Contains(string(out), "not a directory") {
		t.Errorf("%v: %s", err, out)
	}
}
