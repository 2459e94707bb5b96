package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin holds the programs under test, tmp what all tests share.
var bin, tmp string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "SKIPPED, ALL OF IT: the end-to-end tests mount file systems and need root")
		return 0
	}
	dir, err := os.MkdirTemp("", "buildd-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // ordinary users run the programs too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	tmp, bin = dir, filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "github.com/buildd/buildd/cmd/buildd", "github.com/buildd/buildd/cmd/buildctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
