package oci

import (
	"os"
	"os/exec"
	"testing"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	runtimetest.Cleanup()
	os.Exit(code)
}

func testSuite(t *testing.T, binary string, c runtimetest.Config, args ...string) {
	if _, err := exec.LookPath(binary); err != nil {
		t.Skipf("SKIPPED: %s is not installed", binary)
	}
	c.Open = func(t *testing.T) runtime.Runtime {
		r, err := New(Config{Binary: binary, Root: t.TempDir(), Args: args})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	runtimetest.Run(t, c)
}

func TestRunc(t *testing.T) {
	testSuite(t, "runc", runtimetest.Config{MakesCwd: true, LateErrors: true})
}

// TestCrun goes without control groups on hosts of the hybrid layout, which crun
// does not support.
func TestCrun(t *testing.T) {
	c := runtimetest.Config{MakesCwd: true}
	var args []string
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		c.NoCgroups, c.SharedCgroupNS = true, true
		args = append(args, "--cgroup-manager=disabled")
	}
	testSuite(t, "crun", c, args...)
}
