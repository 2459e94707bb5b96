package op

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native"
	"github.com/buildd/buildd/worker/runtime/oci"
)

// cgroupParent keeps other programs on this machine from removing what is ours.
var cgroupParent = fmt.Sprintf("/buildd-op-test-%d", os.Getpid())

var nativeRuntime runtime.Runtime

func TestMain(m *testing.M) {
	native.Init()
	code := func() int {
		if os.Getuid() != 0 {
			return m.Run()
		}
		r, err := native.New(native.Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, "native runtime:", err)
			return 1
		}
		defer r.Close()
		nativeRuntime = r
		return m.Run()
	}()
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(pattern + cgroupParent)
		for _, d := range dirs {
			syscall.Rmdir(d)
		}
	}
	os.Exit(code)
}

// testRuntime is the native runtime, or with BUILDD_TEST_RUNTIME=runc or crun
// that one.
func testRuntime(t testing.TB, dir string) runtime.Runtime {
	t.Helper()
	binary := os.Getenv("BUILDD_TEST_RUNTIME")
	if binary == "" {
		return nativeRuntime
	}
	r, err := oci.New(oci.Config{Binary: binary, Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
