package op

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
)

// emulatorPath is where a step finds the emulator that runs it, as BuildKit has
// it.
const emulatorPath = "/dev/.buildkit_qemu_emulator"

// qemuNames are what qemu calls architectures that Go calls otherwise.
var qemuNames = map[string]string{"arm64": "aarch64", "amd64": "x86_64", "386": "i386", "loong64": "loongarch64", "ppc64le": "ppc64le"}

func qemuName(arch string) string {
	if n, ok := qemuNames[arch]; ok {
		return n
	}
	return arch
}

// platformName writes p for people.
func platformName(p *pb.Platform) string {
	if p == nil {
		return platforms.Format(platforms.DefaultSpec())
	}
	return platforms.Format(p.Spec())
}

// runsHere reports whether the processor runs programs of p itself.
func runsHere(p *pb.Platform) bool {
	return p == nil || p.Architecture == "" || platforms.Only(platforms.DefaultSpec()).Match(p.Spec())
}

// emulator returns the program that has to be put before the arguments of a
// step for p; "" if the kernel finds it (binfmt_misc), needs none, or there is
// none and the step may turn out not to need it.
func emulator(p *pb.Platform) string {
	if runsHere(p) || registered(p.Architecture, "/proc/sys/fs/binfmt_misc") {
		return ""
	}
	path, err := exec.LookPath("buildkit-qemu-" + qemuName(p.Architecture))
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	return path
}

// registered reports whether the kernel knows an interpreter for arch.
func registered(arch, dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "qemu-"+qemuName(arch)))
	return err == nil && strings.HasPrefix(string(b), "enabled")
}

// platformError explains why a program of a foreign platform did not start.
// stderr is what the step wrote: runc and shells report the failure there.
func platformError(p *pb.Platform, err error, stderr string) error {
	if err == nil || runsHere(p) || !formatError(err.Error()) && !errors.Is(err, syscall.ENOEXEC) && !formatError(stderr) {
		return err
	}
	return fmt.Errorf("platform %s cannot run on this %s/%s machine: no emulator is registered for %s; register one with "+
		"\"apt-get install qemu-user-static binfmt-support\" or \"docker run --privileged --rm tonistiigi/binfmt --install %s\": %w",
		platformName(p), runtime.GOOS, runtime.GOARCH, p.Architecture, p.Architecture, err)
}

// formatError recognises ENOEXEC in words.
func formatError(s string) bool { return strings.Contains(strings.ToLower(s), "exec format error") }
