package native

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

const rootlessEnv = "BUILDD_TEST_ROOTLESS"

// TestRootless runs the suite in a process that is root of a user namespace only.
func TestRootless(t *testing.T) {
	runtimetest.Require(t)
	if os.Getenv(rootlessEnv) != "" {
		var log bytes.Buffer
		runtimetest.Run(t, runtimetest.Config{
			Rootless: true,
			Lacks:    []runtimetest.Feature{runtimetest.Cgroups, runtimetest.Nodes},
			Open: func(t *testing.T) runtime.Runtime {
				r, err := New(Config{Rootless: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
		})
		if n := strings.Count(log.String(), "without resource limits"); n != 1 {
			t.Errorf("%d warnings of missing limits, want one: %s", n, log.String())
		}
		return
	}
	const base = 100000
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chown(d, base, base); err != nil {
			t.Fatal(err)
		}
	}
	probe := filepath.Join(dir, "probe")
	b, err := os.ReadFile(runtimetest.Probe(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(probe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: base, Size: 65536}}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRootless$", "-test.v")
	cmd.Env = append(os.Environ(), rootlessEnv+"=1", "TMPDIR="+dir, runtimetest.ProbeEnv+"="+probe)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: maps, GidMappings: maps, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
