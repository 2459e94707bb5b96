package tree

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/layer"
)

// In a user namespace overlay's attributes are user.overlay.*, and of owners only
// one can be set.
func TestRootless(t *testing.T) {
	if dir := os.Getenv("TREE_TEST_ROOTLESS"); dir != "" {
		testRootless(t, dir)
		return
	}
	c := config(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestRootless$", "-test.v")
	cmd.Env = append(os.Environ(), "TREE_TEST_ROOTLESS="+filepath.Dir(c.Dir))
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: one, GidMappings: one,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func testRootless(t *testing.T, dir string) {
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	must(t, err)
	s := open(t, Config{Dir: filepath.Join(dir, "trees"), Blobs: blobs, Rootless: true, IgnoreOwner: true})
	r := &registry{}
	img := addImage(t, s, r.add(t, layer.Gzip, "etc", "etc/a=1", "etc/b=1"), r.add(t, layer.Gzip, "etc/.wh.b=", "other/.wh..wh..opq="))
	must(t, s.Ensure(t.Context(), img, r, nil))
	a := step(t, s, img, func(dir string) {
		must(t, os.RemoveAll(dir+"/etc"))
		write(t, dir+"/etc/c", "1") // an opaque directory
		write(t, dir+"/d/x", "1")
	})
	b := step(t, s, a, func(dir string) { must(t, os.Remove(dir+"/d/x")) })
	expect(t, mounted(t, s, b), "d", "etc", "etc/c=1", "other")
	diff, err := s.Diff(t.Context(), b, img)
	must(t, err)
	both, err := s.Merge(t.Context(), b, diff)
	must(t, err)
	expect(t, mounted(t, s, both), "etc", "etc/a=1", "other")
	for _, l := range layers(t, s, both) {
		_, _, err := s.Blob(t.Context(), l.ID, BlobOptions{Compression: layer.Compression{Type: layer.Gzip, Level: 1}}, nil)
		must(t, err)
	}
}
