package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system in a file, whose power can be cut.
type disk struct {
	t     *testing.T
	image string
	dir   string // where it is mounted
}

func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "disk"), dir: filepath.Join(t.TempDir(), "mnt")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if out, err := exec.Command("mkfs.ext4", "-q", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func (d *disk) mount() {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("mount: %v\n%s", err, out)
	}
}

// unmount takes away the file system and what a killed daemon left mounted in it.
func (d *disk) unmount() {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	var mounts []string
	for l := range strings.Lines(string(b)) {
		if at := strings.Fields(l)[4]; at == d.dir || strings.HasPrefix(at, d.dir+"/") {
			mounts = append(mounts, at)
		}
	}
	for _, at := range slices.Backward(mounts) {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			d.t.Errorf("unmount %s: %v", at, err)
		}
	}
}

// replace goes on with a copy of the disk: whoever still holds the file system
// that was shut down (a mount namespace will do) would have it mounted again so.
func (d *disk) replace() {
	d.t.Helper()
	d.unmount()
	next := d.image + "-next"
	if out, err := exec.Command("cp", "--sparse=always", d.image, next).CombinedOutput(); err != nil {
		d.t.Fatalf("copy disk: %v\n%s", err, out)
	}
	if err := os.Remove(d.image); err != nil {
		d.t.Fatal(err)
	}
	d.image = next
	d.mount()
}

// cut has the file system write nothing any more, not even its journal: what it
// holds when it is mounted again is what it would after a power failure now.
func (d *disk) cut() {
	d.t.Helper()
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2
	)
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		d.t.Fatalf("shut down ext4: %v", err)
	}
}

// TestPowerCut cuts the power of the state directory's disk in the middle of
// builds. The next daemon knows every image that was imported, takes no step for
// done whose files did not reach the disk, and makes the images that a daemon
// makes whose power was never cut.
func TestPowerCut(t *testing.T) {
	reference := startWithBusybox(t)
	disk := newDisk(t, 1<<30)
	d := startDaemonAt(t, filepath.Join(disk.dir, "state"), nil)
	cut := func() {
		t.Helper()
		disk.cut()
		d.kill()
		disk.replace()
		d.start()
	}
	d.busybox()
	cut()
	data := strings.Repeat("0123456789abcdef", 1<<14)
	for i, after := range []time.Duration{0, 150, 400, 700, 1000, 1600, 2500} {
		files := map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox:latest
RUN for i in 0 1 2 3 4 5 6 7; do (echo %[1]d $i; cat /bin/busybox) > /b$i; done
RUN cat /b* | sha256sum > /one
COPY data /data
RUN cat /data/* /one | sha256sum > /two && sleep 0.3
RUN i=0; while [ $i -lt 300 ]; do echo %[1]d $i > /f$i; i=$((i+1)); done
RUN cat /f* | sha256sum > /three && sleep 0.3
RUN rm /f1* && cat /two /three > /four
`, i)}
		for n := range 20 {
			files[fmt.Sprintf("data/%02d", n)] = fmt.Sprint(i, n, data)
		}
		dir := buildContext(t, files)
		want := rootDigest(t, reference, dir)
		done := make(chan run, 1)
		go func() { done <- d.try(t.Context(), "build", "-t", fmt.Sprint("x", i), dir) }()
		time.Sleep(after * time.Millisecond)
		cut()
		<-done
		if got := rootDigest(t, d, dir); got != want {
			t.Errorf("power cut after %d ms: the image is %s, want %s", after, got, want)
		}
		if got := rootDigest(t, d, dir); got != want {
			t.Errorf("power cut after %d ms: the cached image is %s, want %s", after, got, want)
		}
	}
	// What had time to reach the disk is there.
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo one > /one\nRUN sleep 6\n"})
	done := make(chan run, 1)
	go func() { done <- d.try(t.Context(), "build", "-t", "y", dir) }()
	time.Sleep(5 * time.Second)
	cut()
	<-done
	if ran := d.ctl("build", "--progress=plain", "-t", "y", dir).ran(); len(ran) != 1 || !strings.Contains(ran[0], "sleep 6") {
		t.Errorf("ran %q, want the step during which the power was cut and no other", ran)
	}
}
