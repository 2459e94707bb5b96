package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native/zygote"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

// TestDaemonKilled kills a daemon with containers, one of which does what it can
// to stay.
func TestDaemonKilled(t *testing.T) {
	runtimetest.Require(t)
	root := runtimetest.Rootfs(t)
	marker := fmt.Sprintf("77%d", time.Now().UnixNano())
	cmd := exec.Command("/proc/self/exe", root, marker)
	cmd.Env = append(os.Environ(), daemonEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil { // "ready\n" once
		t.Fatalf("daemon does not start: %v", err)
	}
	if n := marked(marker); n < 4 {
		t.Errorf("%d processes before the kill, want 4", n)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); marked(marker) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d processes outlive their daemon", marked(marker))
		}
	}
	left := func() (n int) {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + marker + "/*/cgroup.procs")
		more, _ := filepath.Glob("/sys/fs/cgroup/*/" + marker + "/*/cgroup.procs")
		return len(dirs) + len(more)
	}
	if left() == 0 {
		t.Fatal("no control group is left, so there is nothing to test")
	}
	for end := time.Now().Add(5 * time.Second); left() > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err := Cleanup("/" + marker); err != nil {
			t.Fatal(err)
		}
	}
	if left() > 0 {
		t.Error("control groups are left after Cleanup")
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + marker, "/sys/fs/cgroup/*/" + marker} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	}
}

const daemonEnv = "BUILDD_TEST_DAEMON"

// daemon runs two containers until it is killed.
func daemon(root, marker string) {
	r, err := New(Config{})
	if err != nil {
		panic(err)
	}
	started := make(chan struct{})
	for i := range 2 {
		s, err := runtime.Spec(runtime.SpecOptions{
			ID: fmt.Sprintf("d%d", i), Root: root, CgroupParent: "/" + marker, UID: uint32(1000 * i),
			Args: []string{"/bin/sh", "-c", "trap '' HUP INT TERM; probe sleep " + marker + " & probe sleep " + marker},
		})
		if err != nil {
			panic(err)
		}
		go func() {
			err := r.Run(context.Background(), fmt.Sprintf("d%d", i), runtime.Sandbox{Spec: s}, runtime.Process{Started: func() {
				time.Sleep(300 * time.Millisecond)
				started <- struct{}{}
			}})
			panic(err)
		}()
	}
	<-started
	<-started
	fmt.Println("ready")
	select {}
}

// marked counts the processes with marker as an argument.
func marked(marker string) (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "sleep\x00"+marker+"\x00") {
			n++
		}
	}
	return n
}

// TestZygoteKilled: its containers end with an error that says so, and the next
// one gets a new zygote.
func TestZygoteKilled(t *testing.T) {
	r := open(t, Config{})
	root := runtimetest.Rootfs(t)
	var zygotePID string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		st, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "stat"))
		if strings.HasPrefix(string(b), zygote.Name+"\x00") && strings.Contains(string(st), fmt.Sprintf(" %d ", os.Getpid())) {
			zygotePID = filepath.Base(filepath.Dir(f))
		}
	}
	var pid int
	if _, err := fmt.Sscan(zygotePID, &pid); err != nil {
		t.Fatalf("no zygote found: %v", err)
	}
	s := spec(t, sh(root, "sleep 1000"))
	err := r.Run(t.Context(), "zk", runtime.Sandbox{Spec: s}, runtime.Process{Started: func() { _ = unix.Kill(pid, unix.SIGKILL) }})
	if !errors.Is(err, zygote.ErrEnded) {
		t.Errorf("error %v, want %v", err, zygote.ErrEnded)
	}
	if out, err := run(t, r, spec(t, sh(root, "echo again"))); err != nil || out != "again\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}

func TestClosed(t *testing.T) {
	r := open(t, Config{})
	root := runtimetest.Rootfs(t)
	done := make(chan error)
	started := make(chan struct{})
	go func() {
		done <- r.Run(t.Context(), "cl", runtime.Sandbox{Spec: spec(t, sh(root, "sleep 1000"))}, runtime.Process{Started: func() { close(started) }})
	}()
	<-started
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("Run outlives Close")
	}
	if _, err := run(t, r, spec(t, sh(root, "true"))); err == nil {
		t.Error("Run after Close: no error")
	}
}
