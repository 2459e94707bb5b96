package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system for one state directory.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=755", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Errorf("the disk is in use still: %v", err)
			_ = unix.Unmount(disk, unix.MNT_DETACH)
		}
	})
	return disk
}

// noise is what does not become smaller by compression.
func noise(t *testing.T, mib int) string {
	t.Helper()
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, mib<<20)
	if _, err := io.ReadFull(f, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// zeros is a compressed tar whose last file is much larger when it is unpacked.
func zeros(t *testing.T, mib int64, before ...entry) string {
	t.Helper()
	var b strings.Builder
	w := gzip.NewWriter(&b)
	e := file("zeros", "")
	e.Size = mib << 20
	tw := newTar(t, w, append(before, e)...)
	if _, err := io.CopyN(tw, zero{}, e.Size); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFullDisk fills the disk during each kind of work. The error names the step;
// when there is room again, the same daemon builds the same, and nothing of the
// attempt takes up room.
func TestFullDisk(t *testing.T) {
	newCanary(t)
	const free = 12 // MiB during the attempt
	disk := smallDisk(t, 112)
	d := startDaemonAt(t, filepath.Join(disk, "state"), nil)
	d.busybox()
	ballast := filepath.Join(disk, "ballast")
	reg := startRegistry(t)
	pusher := startWithBusybox(t)
	push := func(name string, files map[string]string) string {
		ref := reg + "/full/" + name + ":1"
		pusher.ctl("build", "-o", "type=image,push=true,name="+ref, buildContext(t, files))
		return ref
	}
	wide := push("wide", map[string]string{"Dockerfile": "FROM busybox:latest\nRUN dd if=/dev/zero of=/wide bs=1M count=24\n"})
	long := push("long", map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY noise /\n", "noise": noise(t, 24)})
	packed := zeros(t, 24, file("Dockerfile", "FROM busybox:latest\nCOPY zeros /\n"))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, packed) }))
	defer web.Close()
	for _, c := range []struct {
		name  string
		files map[string]string
		line  int      // that the error names, 0 where no line asks for it
		args  []string // of the build
		never bool     // no disk is large enough
	}{
		{"RUN", map[string]string{"Dockerfile": "FROM busybox:latest\nRUN dd if=/dev/zero of=/big bs=1M count=24\n"}, 2, nil, false},
		{"COPY", map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY --chown=1:2 a b /to/\n", "a": noise(t, 4), "b": noise(t, 4)}, 2, nil, false},
		{"ADD", map[string]string{"Dockerfile": "FROM busybox:latest\nADD z.tar.gz /to/\n", "z.tar.gz": zeros(t, 24)}, 2, nil, false},
		{"ADD of what fills every disk", map[string]string{"Dockerfile": "FROM busybox:latest\nADD z.tar.gz /to/\n", "z.tar.gz": zeros(t, 1<<10)}, 2, nil, true},
		{"heredoc", map[string]string{"Dockerfile": "FROM busybox:latest\nRUN true\nRUN <<EOF\ndd if=/dev/zero of=/x bs=1M count=24\nEOF\n"}, 3, nil, false},
		{"unpack", map[string]string{"Dockerfile": "FROM " + wide + "\nRUN true\n"}, 2, nil, false},
		{"download", map[string]string{"Dockerfile": "FROM " + long + "\nRUN true\n"}, 2, nil, false},
		{"transfer of the context", map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY big /big\n", "big": noise(t, 24)}, 0, nil, false},
		{"context that is an archive", nil, 0, []string{web.URL + "/context.tar.gz"}, false},
		{"unpacking of a download", map[string]string{"Dockerfile": "FROM busybox:latest\nADD --unpack=true " + web.URL + "/context.tar.gz /to/\n"}, 2, nil, false},
		{"image export", map[string]string{"Dockerfile": "FROM scratch\nCOPY noise /\n", "noise": noise(t, 7)}, 0, []string{"-t", "big"}, false},
		{"archive export", map[string]string{"Dockerfile": "FROM scratch\nCOPY noise /\n", "noise": noise(t, 7)}, 0, []string{"-o", "type=oci,dest=/dev/null"}, false},
		{"cache export", map[string]string{"Dockerfile": "FROM scratch\nCOPY noise /\n", "noise": noise(t, 7)}, 0, []string{"--cache-to", "type=registry,mode=max,ref=" + reg + "/full/cache:1"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := d.with(t)
			build := append([]string{"build", "--progress=plain"}, c.args...)
			if c.files != nil {
				build = append(build, buildContext(t, c.files))
			}
			before := used(t, disk)
			fill(t, disk, ballast, free<<20)
			want := []string{"o space left on device"}
			if c.line > 0 {
				want = append(want, fmt.Sprintf("Dockerfile:%d\n", c.line))
			}
			d.fails(want, build...)
			d.nothingHalf(t)
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if !c.never {
				d.ctl(build...)
			}
			d.try(t.Context(), "image", "rm", "big")
			d.ctl("prune", "--all")
			d.busybox() // which prune --all has taken the layers of
			if now := used(t, disk); now > before+2<<20 {
				t.Errorf("%d bytes are in use after the prune, %d before:\n%s", now, before, tool(t, "find", disk, "-size", "+100k", "-ls"))
			}
		})
	}
	d.alive()
}

// fill leaves so many bytes of a disk free.
func fill(t *testing.T, disk, ballast string, free int64) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(fs.Bfree)*fs.Bsize-free); err != nil {
		t.Fatal(err)
	}
}

// nothingHalf fails the test if a step that is over has left something that is
// no record yet. What is thrown away goes in the background.
func (d *daemon) nothingHalf(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"run", "trees/drafts", "trees/mounts", "trees/trash", "blobs/ingest"} {
		within(t, 5*time.Second, dir+" is empty", func() bool {
			left, err := os.ReadDir(filepath.Join(d.Root, dir))
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return len(left) == 0
		})
	}
}

// used returns how many bytes of a file system are.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize
}
