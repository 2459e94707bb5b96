package runtimetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// busybox is where Debian's busybox-static has it.
const busybox = "/bin/busybox"

var applets = []string{
	"sh", "true", "false", "cat", "ls", "env", "id", "ps", "mount", "sleep", "mknod", "dd", "head", "tail", "readlink",
	"hostname", "pwd", "umask", "stty", "tty", "touch", "echo", "kill", "stat", "mkdir", "rm", "yes", "wc", "test", "ip", "nc", "ping", "wget", "chmod",
}

// Rootfs makes a root file system with busybox and the probe.
func Rootfs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777|os.ModeSticky))
	copyFile(t, busybox, filepath.Join(dir, "bin/busybox"))
	copyFile(t, Probe(t), filepath.Join(dir, "bin/probe"))
	for _, a := range applets {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), 0o644))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o755))
}

// ProbeEnv names a probe that is built already, for a test program that runs
// itself where there is no go command.
const ProbeEnv = "BUILDD_TEST_PROBE"

var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(ProbeEnv); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "buildd-probe-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), "github.com/buildd/buildd/worker/runtime/runtimetest/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return filepath.Join(dir, "probe"), cmd.Run()
})

// Probe builds the program that looks at containers from inside.
func Probe(t testing.TB) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatalf("build probe: %v", err)
	}
	return path
}

// Cleanup removes what the tests of a program shared; call it at the end of
// TestMain.
func Cleanup() {
	if path, err := built(); err == nil && os.Getenv(ProbeEnv) == "" {
		os.RemoveAll(filepath.Dir(path))
	}
}

// Require skips, loudly, where the suite cannot run.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: containers need root")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skipf("SKIPPED: %s is missing: install busybox-static", busybox)
	}
}
