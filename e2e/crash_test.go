package e2e

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKill kills the daemon in the middle of a build, several times at different
// moments of one kind of work. The next daemon needs no repair, takes over what
// was finished, and makes the same image as one that was never killed.
func TestKill(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	files := map[string]string{}
	for i := range 48 {
		files[fmt.Sprintf("data/%02d", i)] = fmt.Sprintf("%02d", i) + big
	}
	for _, c := range []struct {
		name, dockerfile string
		moments          []time.Duration
	}{
		{"run", "FROM busybox:latest\nRUN echo one > /one\nRUN for i in 0 1 2 3 4 5; do cp /bin/busybox /b$i && sleep 0.2; done\nRUN echo two > /two\n",
			[]time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 1100 * time.Millisecond}},
		{"copy", "FROM busybox:latest\nRUN echo one > /one\nCOPY data /data\nRUN cat /data/* | sha256sum > /sum\n",
			[]time.Duration{100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files["Dockerfile"] = c.dockerfile
			dir := buildContext(t, files)
			want := rootDigest(t, startWithBusybox(t), dir)
			d := startWithBusybox(t)
			for _, m := range c.moments {
				d.killDuring(m, "build", "-t", "x", dir)
			}
			if got := rootDigest(t, d, dir); got != want {
				t.Errorf("the image differs after the kills: %s, want %s", got, want)
			}
			if ran := d.ctl("build", "--progress=plain", "-t", "x", dir).ran(); len(ran) > 0 {
				t.Errorf("not cached after a finished build: %q", ran)
			}
		})
	}
	t.Run("finished steps are reused", func(t *testing.T) {
		d := startWithBusybox(t)
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo one > /one\nRUN sleep 3\n"})
		d.killDuring(2*time.Second, "build", "-t", "x", dir)
		ran := d.ctl("build", "--progress=plain", "-t", "x", dir).ran()
		if len(ran) != 1 || !strings.Contains(ran[0], "sleep 3") {
			t.Errorf("ran %q, want the step that was killed and no other", ran)
		}
	})
	t.Run("unpack", func(t *testing.T) {
		reg := startRegistry(t)
		ref := reg + "/kill/base:1"
		pusher := startWithBusybox(t)
		files["Dockerfile"] = "FROM busybox:latest\nCOPY data /data\nRUN echo three > /three\n"
		pusher.ctl("build", "-o", "type=image,push=true,name="+ref, buildContext(t, files))
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nRUN cat /data/* | sha256sum > /sum\n"})
		want := rootDigest(t, startDaemon(t), dir)
		d := startDaemon(t)
		for _, m := range []time.Duration{50, 150, 300} {
			d.killDuring(m*time.Millisecond, "build", "-t", "x", dir)
		}
		if got := rootDigest(t, d, dir); got != want {
			t.Errorf("the image differs after the kills: %s, want %s", got, want)
		}
	})
	t.Run("export", func(t *testing.T) {
		files["Dockerfile"] = "FROM busybox:latest\nCOPY data /data\n"
		dir := buildContext(t, files)
		want := rootDigest(t, startWithBusybox(t), dir)
		d := startWithBusybox(t)
		d.ctl("build", "-o", "type=cacheonly", dir)
		for _, m := range []time.Duration{20, 80, 200} {
			out := filepath.Join(t.TempDir(), "out.tar")
			d.killDuring(m*time.Millisecond, "build", "-o", "type=oci,dest="+out, dir)
		}
		if got := rootDigest(t, d, dir); got != want {
			t.Errorf("the image differs after the kills: %s, want %s", got, want)
		}
		out := filepath.Join(t.TempDir(), "out.tar")
		d.ctl("build", "-o", "type=oci,dest="+out, dir)
		if msg, err := exec.Command("skopeo", "inspect", "--raw", "oci-archive:"+out).CombinedOutput(); err != nil {
			t.Errorf("skopeo: %v\n%s", err, msg)
		}
	})
}

func startWithBusybox(t *testing.T) *daemon {
	t.Helper()
	d := startDaemon(t)
	d.busybox()
	return d
}

// killDuring starts a build, kills the daemon after a while, and starts another
// on the same state directory.
func (d *daemon) killDuring(after time.Duration, args ...string) {
	d.t.Helper()
	done := make(chan run, 1)
	go func() { done <- d.try(d.t.Context(), args...) }()
	time.Sleep(after)
	d.kill()
	<-done
	d.start()
}

// rootDigest builds a root file system and digests all that it holds, times of
// what steps made apart.
func rootDigest(t *testing.T, d *daemon, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "root.tar")
	d.ctl("build", "-o", "type=tar,dest="+out, dir)
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	for r := tar.NewReader(f); ; {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%x", h.Sum(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(h, "%s %c %o %d %d %s %d\n", e.Name, e.Typeflag, e.Mode, e.Uid, e.Gid, e.Linkname, e.Size)
		if _, err := io.Copy(h, r); err != nil {
			t.Fatal(err)
		}
	}
}
