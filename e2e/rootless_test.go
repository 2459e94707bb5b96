package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ofMany is a Dockerfile whose files belong to several users.
const ofMany = `FROM busybox:latest
RUN echo root > /by-root && test "$(id -u)" = 0
COPY --chown=33:44 f /copied
RUN mkdir -p /var/lib/pg && echo db > /var/lib/pg/db && ln -s db /var/lib/pg/link
RUN --mount=type=cache,target=/cache echo x >> /cache/x && test "$(wc -l < /cache/x)" = 1
RUN --network=none test "$(ls /sys/class/net)" = lo
RUN test -e /sys/class/net/lo && ! echo 1 > /proc/sys/kernel/printk
RUN chown -R 70:71 /var/lib/pg && chown -h 72:73 /by-root && chown 0:7 /by-root
RUN echo DB > /var/lib/pg/db && mv /var/lib/pg/db /var/lib/pg/db2
USER 33:44
RUN echo user > /tmp/by-user && mkdir /tmp/dir
`

// owners are what the image of ofMany must say.
var owners = map[string][2]uint32{
	"by-root": {0, 7}, "copied": {33, 44}, "var/lib": {0, 0}, "var/lib/pg": {70, 71}, "var/lib/pg/db2": {70, 71}, "tmp": {0, 0},
	"tmp/by-user": {33, 44}, "tmp/dir": {33, 44}, "bin/busybox": {0, 0},
}

func TestRootless(t *testing.T) {
	t.Run("one ID", func(t *testing.T) {
		d := testRootless(t, newStranger(t))
		if !strings.Contains(d.log.String(), "only one user ID is mapped") || !strings.Contains(d.log.String(), "install the package uidmap") {
			t.Error("the log does not say that one ID is mapped, and what helps")
		}
	})
	t.Run("many IDs", func(t *testing.T) {
		d := testRootless(t, newLodger(t))
		if strings.Contains(d.log.String(), "only one user ID") {
			t.Error("one ID is mapped only")
		}
		d.ctl("build", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nUSER 33\nRUN test $(id -u) = 33 && ! touch /root/x\n"}))
	})
}

// testRootless builds as a user and looks at the images from outside.
func testRootless(t *testing.T, a *account) *daemon {
	d := startDaemonAs(t, a)
	d.busybox()
	dir := buildContext(t, map[string]string{"Dockerfile": ofMany, "f": "f"})
	out := a.dir(t)
	archive := filepath.Join(out, "oci.tar")
	d.ctl("build", "--progress=plain", "-o", "type=oci,dest="+archive, dir)
	checkOwners(t, archive)
	if ran := d.ctl("build", "--progress=plain", "-t", "again", dir).ran(); len(ran) > 0 {
		t.Errorf("not cached: %q", ran)
	}
	for _, want := range []string{"RUN shares the host's network", "containers run without resource limits"} {
		if n := strings.Count(d.log.String(), want); n != 1 {
			t.Errorf("the log says %d times %q, want once", n, want)
		}
	}

	t.Run("export", func(t *testing.T) {
		d := d.with(t)
		d.ctl("build", "-o", "type=local,dest="+filepath.Join(out, "local"), dir)
		if b, err := os.ReadFile(filepath.Join(out, "local/var/lib/pg/db2")); err != nil || string(b) != "DB\n" {
			t.Errorf("local export: %q, %v", b, err)
		}
		pulled := buildContext(t, map[string]string{"Dockerfile": "FROM again\nRUN test -f /copied && echo child > /tmp/child\n"})
		d.ctl("build", "-t", "child", pulled)
	})
	t.Run("second daemon", func(t *testing.T) {
		cmd := exec.Command(filepath.Join(bin, "buildd"), "--root", d.Root, "--addr", d.Addr+"2", "--config", os.DevNull)
		a.run(cmd)
		msg, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(msg), "another daemon has") {
			t.Errorf("%v: %s", err, msg)
		}
	})
	t.Run("killed", func(t *testing.T) {
		go d.try(t.Context(), "build", "-t", "x", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN sleep 986\n"}))
		for end := time.Now().Add(20 * time.Second); processes("sleep\x00986") == 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the step does not start")
			}
		}
		d.kill()
		for end := time.Now().Add(10 * time.Second); processes("sleep\x00986")+processes(d.Root) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("processes outlive the daemon")
			}
		}
		d.start()
		if ran := d.ctl("build", "--progress=plain", "-t", "again", dir).ran(); len(ran) > 0 {
			t.Errorf("not cached after a kill: %q", ran)
		}
	})
	t.Run("without a daemon", func(t *testing.T) { testDaemonless(t, a) })
	for _, binary := range []string{"runc", "crun"} {
		t.Run(binary, func(t *testing.T) { testRootlessBinary(t, a, binary) })
	}
	return d
}

// checkOwners unpacks an image with umoci, as root, and looks.
func checkOwners(t *testing.T, archive string) {
	t.Helper()
	work := t.TempDir()
	tool(t, "skopeo", "copy", "oci-archive:"+archive, "oci:"+work+"/layout:x")
	tool(t, "umoci", "unpack", "--image", work+"/layout:x", work+"/bundle")
	for name, want := range owners {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(work, "bundle/rootfs", name), &st); err != nil {
			t.Error(err)
			continue
		}
		if got := [2]uint32{st.Uid, st.Gid}; got != want {
			t.Errorf("owner of %s is %v, want %v", name, got, want)
		}
	}
}

// testDaemonless builds where the default addresses and directories are the
// user's, at first with a daemon at the default address.
func testDaemonless(t *testing.T, a *account) {
	home := a.dir(t)
	run := a.dir(t)
	env := []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + run, "XDG_DATA_HOME=" + filepath.Join(home, "data"), "PATH=" + os.Getenv("PATH")}
	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, program), args...)
		a.run(cmd)
		cmd.Env = env
		return cmd
	}
	daemon := command("buildd")
	log := &syncBuffer{}
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(run, "buildd/buildd.sock")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no socket at %s:\n%s", sock, log)
		}
	}
	if out, err := command("buildctl", "image", "import", "busybox:latest", busyboxTar(t)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_ = daemon.Process.Signal(syscall.SIGTERM)
	if err := daemon.Wait(); err != nil {
		t.Errorf("a daemon that was asked to end: %v\n%s", err, log)
	}
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo hi > /hi\n"})
	out := filepath.Join(home, "out")
	if msg, err := command("buildctl", "build", "-o", out, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	if b, err := os.ReadFile(filepath.Join(out, "hi")); err != nil || string(b) != "hi\n" {
		t.Errorf("/hi is %q: %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(home, "data/buildd/trees")); err != nil {
		t.Errorf("the state directory is not where $XDG_DATA_HOME says: %v", err)
	}
}

// testRootlessBinary has an OCI runtime run the steps. crun refuses hosts with
// control groups of both versions, so the second half is hidden from it.
func testRootlessBinary(t *testing.T, a *account, binary string) {
	if _, err := exec.LookPath(binary); err != nil {
		t.Skipf("SKIPPED: %s is not installed", binary)
	}
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err == nil && binary == "crun" {
		t.Skipf("SKIPPED: crun does not work where control groups of both versions are mounted (%s)", unified)
	}
	b := *a
	b.home = a.dir(t)
	d := startDaemonAs(t, &b, "--oci-worker-binary", binary)
	d.busybox()
	archive := filepath.Join(b.dir(t), "oci.tar")
	text := ofMany
	if a.subs == 0 { // only our own runtime keeps owners that there are not
		text = strings.ReplaceAll(text, "RUN chown", "#RUN chown")
	}
	d.ctl("build", "--progress=plain", "-o", "type=oci,dest="+archive, buildContext(t, map[string]string{"Dockerfile": text, "f": "f"}))
}
