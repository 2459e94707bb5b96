package op

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native"
	"github.com/buildd/buildd/worker/runtime/oci"
)

// cgroupParent keeps other programs on this machine from removing what is ours.
const cgroupParent = "/buildd-op-test"

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
		defer func() {
			r.Close()
			for _, pattern := range []string{"/sys/fs/cgroup" + cgroupParent, "/sys/fs/cgroup/*" + cgroupParent} {
				dirs, _ := filepath.Glob(pattern)
				for _, d := range dirs {
					os.Remove(d) // unless another run of these tests uses it
				}
			}
		}()
		nativeRuntime = r
		return m.Run()
	}()
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
