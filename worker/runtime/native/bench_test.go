package native

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/oci"
	"github.com/buildd/buildd/worker/runtime/runtimetest"
)

// BenchmarkTrue is what a container of /bin/true costs: the time until Run
// returns, and the processor's time in all, which a busy machine changes less.
func BenchmarkTrue(b *testing.B) {
	runtimetest.Require(b)
	root := runtimetest.Rootfs(b)
	b.Run("native", func(b *testing.B) {
		benchmark(b, root, func() (runtime.Runtime, error) { return New(Config{}) })
	})
	for _, binary := range []string{"runc", "crun"} {
		b.Run(binary, func(b *testing.B) {
			if _, err := exec.LookPath(binary); err != nil {
				b.Skipf("SKIPPED: %s is not installed", binary)
			}
			benchmark(b, root, func() (runtime.Runtime, error) {
				return oci.New(oci.Config{Binary: binary, Root: b.TempDir()})
			})
		})
	}
}

func benchmark(b *testing.B, root string, open func() (runtime.Runtime, error)) {
	r, err := open()
	if err != nil {
		b.Fatal(err)
	}
	before := processorTime()
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("bench-%d", n)
		s, err := runtime.Spec(runtime.SpecOptions{ID: id, Root: root, Args: []string{"/bin/true"}, CgroupParent: "/buildd-bench"})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Run(context.Background(), id, runtime.Sandbox{Spec: s}, runtime.Process{}); err != nil {
			b.Skipf("SKIPPED: %v", err)
		}
	}
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
	for _, pattern := range []string{"/sys/fs/cgroup/buildd-bench", "/sys/fs/cgroup/*/buildd-bench"} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			_ = os.Remove(d)
		}
	}
	b.ReportMetric(float64(processorTime()-before)/float64(n)/1e6, "cpu-ms/op")
}

// processorTime is that of this process and of its descendants that have ended.
func processorTime() int64 {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += u.Utime.Nano() + u.Stime.Nano()
		}
	}
	return sum
}
