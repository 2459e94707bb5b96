package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

const usernsChild = "BUILDD_TEST_USERNS_CHILD"

// TestInUserNamespace runs the tests of TestUserNamespaceChild where only one
// ID is mapped, as for a user without subordinate IDs.
func TestInUserNamespace(t *testing.T) {
	if os.Getenv(usernsChild) != "" {
		t.Skip("is the child")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespaceChild$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), usernsChild+"=1")
	one := func(host int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: host, Size: 1}} }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: one(os.Geteuid()), GidMappings: one(os.Getegid()),
	}
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Skipf("SKIPPED: no user namespace: %v", err)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestUserNamespaceChild")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUserNamespaceChild(t *testing.T) {
	if os.Getenv(usernsChild) == "" {
		t.Skip("run by TestInUserNamespace")
	}
	o := UnpackOptions{UserXattr: true, IgnoreOwner: true}
	b := tarOf(t,
		d("d").with(func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 5, 6, 0o555 }),
		f("d/f", "x").with(func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 1000, 1001, 0o4444 }),
		f("d/own", "x"), f("d/.wh..wh..opq", ""), f(".wh.gone", ""),
		ent{tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, ""},
		l("l", "x").with(func(h *tar.Header) { h.Uid = 7 }),
	)
	dir := t.TempDir()
	x, err := Unpack(t.Context(), bytes.NewReader(b), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, x, "d/ opaque", "d/f", "d/own", "gone whiteout", "l -> x")
	y, err := digest.Scan(t.Context(), dir, digest.ScanOptions{UserXattr: true, KeptOwner: true})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][3]uint32{"d": {5, 6, 0o555}, "d/f": {1000, 1001, 0o4444}, "d/own": {0, 0, 0o644}} {
		for _, index := range []*digest.Index{x, y} {
			if e, _ := index.Lookup(path); e.UID != want[0] || e.GID != want[1] || e.Mode&0o7777 != want[2] || e.Xattrs != nil {
				t.Errorf("%+v, want %v", e, want)
			}
		}
	}
	if e, _ := x.Lookup("l"); e.UID != 7 {
		t.Errorf("the link belongs to %d: the image says 7, whatever the disk can hold", e.UID)
	}
	if bytes.Equal(pack(t, digest.Layer{Dir: dir, Index: x}, PackOptions{}), nil) {
		t.Error("packed to nothing")
	}
	if _, err := Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), UnpackOptions{UserXattr: true}); err == nil {
		t.Error("an owner that is not mapped: no error without IgnoreOwner")
	}
	root := t.TempDir()
	if err := UnpackArchive(t.Context(), bytes.NewReader(tarOf(t, f("a", "").with(func(h *tar.Header) { h.Uid = 9 }))), root, ArchiveOptions{IgnoreOwner: true}); err != nil {
		t.Error(err)
	}
	if z, err := digest.Scan(t.Context(), root, digest.ScanOptions{KeptOwner: true}); err != nil {
		t.Error(err)
	} else if e, _ := z.Lookup("a"); e.UID != 9 {
		t.Errorf("%+v", e)
	}
}
