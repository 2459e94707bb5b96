package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// foreignShell stands in for /bin/sh: it says what it runs on.
const foreignShell = `package main

import ("fmt"; "os"; "runtime")

func main() {
	fmt.Println("running", os.Args[2], "on", runtime.GOARCH)
	if err := os.WriteFile("/made-on", []byte(runtime.GOARCH), 0o644); err != nil { panic(err) }
}
`

// platforms is a build whose second stage runs programs of the target platform.
const platforms = `FROM --platform=$BUILDPLATFORM busybox:latest AS build
ARG TARGETARCH
RUN echo for $TARGETARCH on $(uname -m) > /note
FROM scratch
ARG TARGETARCH
COPY $TARGETARCH /bin/sh
COPY --from=build /note /note
RUN emulated
`

// qemu are the emulators of Debian's qemu-user-static by architecture.
var qemu = map[string]string{"arm64": "aarch64", "riscv64": "riscv64", "s390x": "s390x", "ppc64le": "ppc64le"}

// foreignContext holds a shell for each of qemu's architectures, and this one.
func foreignContext(t *testing.T) string {
	t.Helper()
	dir := buildContext(t, map[string]string{"Dockerfile": platforms})
	program(t, dir, "amd64", foreignShell)
	for arch := range qemu {
		t.Run("compile", func(t *testing.T) {
			t.Setenv("GOARCH", arch)
			program(t, dir, arch, foreignShell)
		})
	}
	return dir
}

// unregistered returns an architecture that this machine cannot run.
func unregistered(t *testing.T, dir string) string {
	t.Helper()
	for arch := range qemu {
		if exec.Command(filepath.Join(dir, arch), "-c", "true").Run() != nil {
			return arch
		}
	}
	t.Skip("SKIPPED, NOT TESTED WHAT A MACHINE WITHOUT EMULATORS SAYS: this one has emulators for everything")
	return ""
}

func TestPlatformWithoutEmulator(t *testing.T) {
	dir := foreignContext(t)
	arch := unregistered(t, dir)
	for _, binary := range []string{"", "runc"} {
		t.Run("runtime "+binary, func(t *testing.T) {
			var args []string
			if binary != "" {
				args = []string{"--oci-worker-binary", binary}
			}
			d := startDaemon(t, args...)
			d.busybox()
			r := d.fails([]string{"Dockerfile:8\n", "   8 | >>> RUN emulated", "platform linux/" + arch + " cannot run on this linux/amd64 machine", "no emulator is registered",
				"apt-get install qemu-user-static"}, "build", "--progress=plain", "--platform", "linux/amd64,linux/"+arch, dir)
			if r.Exit != 1 {
				t.Errorf("exit %d", r.Exit)
			}
			// Only the step that runs programs of the platform needs them.
			out := filepath.Join(t.TempDir(), "out")
			d.inputOK(t, strings.ReplaceAll(platforms, "RUN emulated\n", ""), "build", "-f", "-", "--platform", "linux/amd64,linux/"+arch, "-o", "type=local,dest="+out, dir)
			if got := readFile(t, out, "linux_"+arch, "note"); got != "for "+arch+" on x86_64\n" {
				t.Errorf("cross-compiled: %q", got)
			}
			d.alive()
		})
	}
}

// TestPlatformWithEmulator builds for several platforms in one request, with
// emulators that are registered with the daemon's own user namespace, so that
// the machine is left as it is.
func TestPlatformWithEmulator(t *testing.T) {
	a := newLodger(t)
	d := startDaemonAs(t, a)
	registerEmulators(t, d)
	d.busybox()
	dir := foreignContext(t)
	names := []string{"linux/amd64"}
	for arch := range qemu {
		names = append(names, "linux/"+arch)
	}
	out := filepath.Join(a.dir(t), "out")
	r := d.ctl("build", "--progress=plain", "--platform", strings.Join(names, ","), "-t", "many:1", "--load", "-o", "type=local,dest="+out, dir)
	for _, n := range names {
		_, arch, _ := strings.Cut(n, "/")
		if got := readFile(t, out, "linux_"+arch, "made-on"); got != arch {
			t.Errorf("%s: the step ran on %q", n, got)
		}
		if got := readFile(t, out, "linux_"+arch, "note"); got != "for "+arch+" on x86_64\n" {
			t.Errorf("%s: the native step left %q", n, got)
		}
		if want := "running emulated on " + arch; !strings.Contains(r.Err, want) {
			t.Errorf("progress does not say %q:\n%s", want, r.Err)
		}
	}
	if got := d.inspect("many:1").Platforms; len(got) != len(names) {
		t.Errorf("the image is for %q, want %q", got, names)
	}
	// A step for each platform was cached for that platform.
	if ran := d.ctl("build", "--progress=plain", "--platform", strings.Join(names, ","), dir).ran(); len(ran) > 0 {
		t.Errorf("not cached: %q", ran)
	}
}

// registerEmulators has the kernel run programs of qemu's architectures in the
// user namespace of a rootless daemon.
func registerEmulators(t *testing.T, d *daemon) {
	t.Helper()
	script := "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc\n"
	for _, name := range qemu {
		b, err := os.ReadFile("/usr/lib/binfmt.d/qemu-" + name + ".conf")
		if err != nil {
			t.Fatal(err) // script/need installs qemu-user-static
		}
		fields := strings.Split(strings.TrimSpace(string(b)), ":") // :name:M::magic:mask:interpreter:flags
		fields[6], fields[7] = "/usr/bin/qemu-"+name+"-static", "F"
		script += fmt.Sprintf("printf '%%s' '%s' > /proc/sys/fs/binfmt_misc/register\n", strings.Join(fields, ":"))
	}
	cmd := exec.Command("nsenter", "--target", d.inside(), "--user", "--mount", "sh", "-ec", script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, BUILDS WITH EMULATORS ARE NOT TESTED: the kernel does not register them in a user namespace (Linux 6.7 does): %v %s", err, out)
	}
}

// inside is the process of a rootless daemon that is in its user namespace.
func (d *daemon) inside() string {
	d.t.Helper()
	ours, _ := os.Readlink("/proc/self/ns/user")
	for pids := []string{fmt.Sprint(d.cmd.Process.Pid)}; len(pids) > 0; pids = pids[1:] {
		if ns, err := os.Readlink("/proc/" + pids[0] + "/ns/user"); err == nil && ns != ours {
			return pids[0]
		}
		children, _ := filepath.Glob("/proc/" + pids[0] + "/task/*/children")
		for _, file := range children {
			b, _ := os.ReadFile(file)
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	d.t.Fatal("the daemon has no process in a user namespace")
	return ""
}
