package oci

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

// hide is set in a process that is to lose sight of unified.
const hide = "BUILDD_TEST_HIDE_UNIFIED"

func TestMain(m *testing.M) {
	if os.Getenv(hide) != "" {
		if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
			panic(err)
		}
		// What crun makes there all the same goes with this process.
		if err := unix.Mount("tmpfs", unified, "tmpfs", 0, ""); err != nil {
			panic(err)
		}
	}
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
	testSuite(t, "runc", runtimetest.Config{Lacks: []runtimetest.Feature{runtimetest.Cwd, runtimetest.Interpreter}})
}

// unified is the empty half of a hybrid layout of control groups, which crun
// refuses to work with.
const unified = "/sys/fs/cgroup/unified"

// TestCrun runs, on hosts with a hybrid layout, in a process that does not see
// its second half.
func TestCrun(t *testing.T) {
	if _, err := os.Stat(unified + "/cgroup.procs"); err == nil {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrun$", "-test.v")
		cmd.Env = append(os.Environ(), hide+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	testSuite(t, "crun", runtimetest.Config{Lacks: []runtimetest.Feature{
		runtimetest.Cwd, runtimetest.Interpreter, runtimetest.OOM, runtimetest.Home, runtimetest.NewCalls, runtimetest.Resize,
	}})
}
