package mount

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func area(t *testing.T) *Area {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for mounts")
	}
	a, err := OpenArea(filepath.Join(t.TempDir(), "area"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if m, err := a.mounts(); len(m) > 0 || err != nil {
			t.Errorf("mounts are left: %v %v", m, err)
		}
	})
	return a
}

func TestBind(t *testing.T) {
	a := area(t)
	dir := filepath.Join(t.TempDir(), "d")
	if err := errors.Join(os.MkdirAll(dir+"/sub/deep", 0o755), os.WriteFile(dir+"/sub/f", []byte("in"), 0o644), os.Symlink("/sub", dir+"/abs"),
		os.Symlink("../../../sub", dir+"/up"), os.Symlink("loop", dir+"/loop"), os.Mkdir(dir+"/proc", 0o755), os.Symlink("/proc/self/root", dir+"/magic")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sel  string
		dir  bool
		want error
	}{
		{"sub", true, nil},
		{"abs", true, nil},
		{"up", true, nil},
		{"../../abs/../sub", true, nil},
		{"sub/f", false, nil},
		{"none", false, fs.ErrNotExist},
		{"magic", false, fs.ErrNotExist},
		{"loop", false, unix.ELOOP},
	} {
		at := filepath.Join(a.Dir, strings.ReplaceAll(c.sel, "/", "-"))
		b, err := Bind(dir, c.sel, at)
		if c.want != nil {
			if !errors.Is(err, c.want) {
				t.Errorf("bind %s: %v, want %v", c.sel, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("bind %s: %v", c.sel, err)
			continue
		}
		p := at
		if c.dir {
			p += "/f"
		}
		if got, err := os.ReadFile(p); string(got) != "in" || b.IsDir != c.dir {
			t.Errorf("bind %s: %q %v, directory %v", c.sel, got, err, b.IsDir)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, _ := os.ReadFile(dir + "/sub/f"); string(got) != "in" {
		t.Error("what was bound is gone")
	}
	if left, _ := os.ReadDir(a.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestMemory(t *testing.T) {
	a := area(t)
	m, err := NewMemory(filepath.Join(a.Dir, "m"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.WriteFile([]byte("secret"), 5, 6, 0o440)
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("the file lies on a file system of type %x: %v", fs.Type, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil || st.Uid != 5 || st.Gid != 6 || st.Mode&0o777 != 0o440 {
		t.Errorf("file is %d:%d %o: %v", st.Uid, st.Gid, st.Mode, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestAreaAfterCrash finds an area with mounts that a killed process has left.
func TestAreaAfterCrash(t *testing.T) {
	a := area(t)
	precious := filepath.Join(t.TempDir(), "precious")
	if err := errors.Join(os.MkdirAll(precious+"/sub", 0o755), os.WriteFile(precious+"/sub/f", nil, 0o644), os.Mkdir(a.Dir+"/step", 0o755),
		os.WriteFile(a.Dir+"/step/hosts", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := Bind(precious, "sub", a.Dir+"/step/bound"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMemory(a.Dir + "/step/memory"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMemory(a.Dir + "/step/memory/over"); err != nil {
		t.Fatal(err)
	}
	b, err := OpenArea(a.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(b.Dir); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
	if m, _ := b.mounts(); len(m) != 1 {
		t.Errorf("mounts %v, want the area alone", m)
	}
	if _, err := os.Stat(precious + "/sub/f"); err != nil {
		t.Errorf("what was bound was removed: %v", err)
	}
}
