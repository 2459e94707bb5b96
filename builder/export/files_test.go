package export

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/moby/buildkit/session/filesync"
	"golang.org/x/sys/unix"
)

// list names all below dir, directories with a slash.
func list(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		if rel == "." || err != nil {
			return err
		}
		if d.IsDir() {
			rel += "/"
		}
		out = append(out, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func exportLocal(t *testing.T, set *Set, attrs string, in Input) string {
	t.Helper()
	dir := t.TempDir()
	export(t, set, "local", attrs, in, Request{ID: 1, Client: client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDir(1, dir)))})
	return dir
}

func TestLocal(t *testing.T) {
	set, m := testSet(t)
	in := input(t, two(t, m), nil)
	dir := exportLocal(t, set, "", in)
	if got := list(t, dir); got != "bin/ bin/a bin/b etc/ etc/passwd sbin" {
		t.Errorf("got %s", got)
	}
	checkUnpacked(t, dir)
	fi, err := os.Lstat(filepath.Join(dir, "bin/b"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Nlink != 2 || !fi.ModTime().Equal(past) {
		t.Errorf("bin/b: %v, %v", fi, err)
	}
	if fi, err = os.Stat(filepath.Join(exportLocal(t, set, "source-date-epoch=1000000000", in), "etc/passwd")); err != nil || fi.ModTime().Unix() != 1e9 {
		t.Errorf("with epoch: %v, %v", fi, err)
	}
}

func TestLocalSource(t *testing.T) {
	set, m := testSet(t)
	in := input(t, two(t, m), nil)
	for src, want := range map[string]string{"bin": "a b", "/sbin/": "a b", "../etc": "passwd"} {
		if got := list(t, exportLocal(t, set, "src="+src, in)); got != want {
			t.Errorf("src=%s: got %s", src, got)
		}
	}
	for src, want := range map[string]error{"/none": fs.ErrNotExist, "/bin/a": unix.ENOTDIR, "etc/old": fs.ErrNotExist} {
		e, _ := set.Resolve("local", map[string]string{"src": src})
		if _, err := e.Export(t.Context(), in, Request{}); !errors.Is(err, want) || !strings.Contains(err.Error(), "src="+src) {
			t.Errorf("src=%s: %v", src, err)
		}
	}
}

func TestLocalPlatforms(t *testing.T) {
	set, m := testSet(t)
	trees := map[string]cache.Tree{
		"linux/amd64": m.add("", write(t, map[string]string{"d/x": "amd"})),
		"linux/arm64": m.add("", write(t, map[string]string{"d/y": "arm"})),
	}
	in := multi(t, nil, trees)
	in.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}, "linux/arm64": {provenance()}}
	if got := list(t, exportLocal(t, set, "", in)); got != "linux_amd64/ linux_amd64/d/ linux_amd64/d/x linux_amd64/provenance.json linux_arm64/ linux_arm64/d/ linux_arm64/d/y linux_arm64/provenance.json" {
		t.Errorf("split: %s", got)
	}
	if got := list(t, exportLocal(t, set, "platform-split=false;attestation-prefix=x-", in)); got != "d/ d/x d/y x-provenance.linux_amd64.json x-provenance.linux_arm64.json" {
		t.Errorf("not split: %s", got)
	}
	one := input(t, trees["linux/amd64"], nil)
	one.Attestations = map[string][]Attestation{one.Platforms[0].ID: {provenance()}}
	dir := exportLocal(t, set, "", one)
	if got := list(t, dir); got != "d/ d/x provenance.json" {
		t.Errorf("single: %s", got)
	}
	data, err := os.ReadFile(filepath.Join(dir, "provenance.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s statement
	if err := json.Unmarshal(data, &s); err != nil || len(s.Subject) != 1 || s.Subject[0].Name != "d/x" ||
		s.Subject[0].Digest["sha256"] != describe("", []byte("amd")).Digest.Encoded() {
		t.Errorf("provenance.json: %v\n%s", err, data)
	}
	if got := list(t, exportLocal(t, set, "platform-split=true", one)); got != "linux_amd64/ linux_amd64/d/ linux_amd64/d/x linux_amd64/provenance.json" {
		t.Errorf("forced split: %s", got)
	}

	both := multi(t, nil, map[string]cache.Tree{"linux/amd64": trees["linux/amd64"], "linux/arm64": trees["linux/amd64"]})
	e, _ := set.Resolve("local", parse("platform-split=false"))
	if _, err := e.Export(t.Context(), both, Request{}); err == nil || !strings.Contains(err.Error(), "cannot overwrite d/x from linux/arm64 with linux/amd64 when split option is disabled") {
		t.Errorf("two platforms' files in one place: %v", err)
	}
}

func TestLocalMirror(t *testing.T) {
	set, m := testSet(t)
	in := multi(t, nil, map[string]cache.Tree{
		"linux/amd64": m.add("", write(t, map[string]string{"d/x": "amd", "same/": ""})),
		"linux/arm64": m.add("", write(t, map[string]string{"d/y": "arm", "a": "arm", "same/": ""})),
	})
	for attrs, want := range map[string]string{
		"mode=delete":                      "linux_amd64/ linux_amd64/d/ linux_amd64/d/x linux_amd64/same/ linux_arm64/ linux_arm64/a linux_arm64/d/ linux_arm64/d/y linux_arm64/same/",
		"mode=delete;platform-split=false": "a d/ d/x d/y same/",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "stale"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		export(t, set, "local", attrs, in, Request{Client: client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDirDelete(0, dir)))})
		if got := list(t, dir); got != want {
			t.Errorf("%s: %s", attrs, got)
		}
	}
}

// A file that is hard-linked between layers for the store's own reasons is not
// a hard link of the image; one that a layer has is.
func TestHardLinksOfTheStore(t *testing.T) {
	set, m := testSet(t)
	base := m.add("", write(t, map[string]string{"a": "x", "z": "= a"}))
	dir := m.layers[m.trees[base][0]].layer.Dir
	tr := m.add(base, func(d string) {
		if err := os.Link(filepath.Join(dir, "a"), filepath.Join(d, "b")); err != nil {
			t.Fatal(err)
		}
	})
	gone := m.add(base, write(t, map[string]string{"a": "!", "c": "y"}))
	heads, _ := exportTar(t, set, "", input(t, tr, nil))
	if heads["b"].Typeflag != tar.TypeReg || heads["z"].Linkname != "a" {
		t.Errorf("b: %+v, z: %+v", heads["b"], heads["z"])
	}
	// Of a linked file whose first name is gone the rest stays a file.
	heads, files := exportTar(t, set, "", input(t, gone, nil))
	if heads["z"].Typeflag != tar.TypeReg || files["z"] != "x" || heads["a"] != nil {
		t.Errorf("z: %+v", heads["z"])
	}
}

func exportTar(t *testing.T, set *Set, attrs string, in Input) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	var out sink
	export(t, set, "tar", attrs, in, Request{Client: client(t, out.target(0))})
	return untar(t, out.Bytes())
}

func TestTar(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	tr = m.add(tr, func(dir string) {
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if os.Getuid() != 0 {
			t.Skip("SKIPPED: devices and owners need root")
		}
		must(os.WriteFile(filepath.Join(dir, "own"), []byte("x"), 0o644))
		must(os.Chown(filepath.Join(dir, "own"), 12, 34))
		must(os.Chmod(filepath.Join(dir, "own"), 0o4755))
		must(os.Chmod(filepath.Join(dir, "own"), os.ModeSetuid|0o755))
		must(unix.Setxattr(filepath.Join(dir, "own"), "user.k", []byte("v"), 0))
		must(unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
		must(unix.Mknod(filepath.Join(dir, "sock"), unix.S_IFSOCK|0o600, 0))
		must(os.Mkdir(filepath.Join(dir, "tmp"), 0o755))
		must(os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777))
	})
	in := input(t, tr, nil)
	heads, files := exportTar(t, set, "source-date-epoch=1000000000", in)
	var names []string
	for name, h := range heads {
		names = append(names, name)
		if h.ModTime.Unix() != 1e9 {
			t.Errorf("%s: %s", name, h.ModTime)
		}
	}
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "bin/ bin/a bin/b dev etc/ etc/passwd own pipe sbin tmp/" {
		t.Errorf("names: %s", got)
	}
	if files["etc/passwd"] != "root,you" || heads["bin/b"].Linkname != "bin/a" || heads["sbin"].Linkname != "bin" {
		t.Errorf("files: %v", files)
	}
	own := heads["own"]
	if own.Uid != 12 || own.Gid != 34 || own.Mode != 0o4755 || own.PAXRecords["SCHILY.xattr.user.k"] != "v" {
		t.Errorf("own: %+v", own)
	}
	if d := heads["dev"]; d.Typeflag != tar.TypeChar || d.Devmajor != 1 || d.Devminor != 3 || heads["tmp/"].Mode != 0o1777 || heads["pipe"].Typeflag != tar.TypeFifo {
		t.Errorf("dev: %+v, tmp: %+v", d, heads["tmp/"])
	}

	var a, b sink
	export(t, set, "tar", "", in, Request{Client: client(t, a.target(0))})
	export(t, set, "tar", "", in, Request{Client: client(t, b.target(0))})
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two tars of one tree differ")
	}
	root := t.TempDir()
	run(t, "tar", "-xf", save(t, a.Bytes()), "-C", root)
	checkUnpacked(t, root)
}

func TestTarPlatforms(t *testing.T) {
	set, m := testSet(t)
	tr := m.add("", write(t, map[string]string{"x": "1", "y": "= x", "l": "-> /x"}))
	in := multi(t, nil, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": ""})
	in.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}}
	heads, _ := exportTar(t, set, "source-date-epoch=5", in)
	if len(heads) != 6 || heads["linux_arm64/"] == nil || heads["linux_amd64/y"].Linkname != "linux_amd64/x" {
		t.Errorf("got %v", heads)
	}
	if h := heads["linux_amd64/provenance.json"]; h.ModTime.Unix() != 5 || h.Mode != 0o600 {
		t.Errorf("provenance.json: %+v", h)
	}
	list := []Attestation{provenance(), provenance()}
	in.Attestations["linux/amd64"] = list
	e, _ := set.Resolve("tar", nil)
	if _, err := e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), "duplicate attestation path name provenance.json") {
		t.Errorf("two attestations of one name: %v", err)
	}
}

// A client that goes away ends the export.
func TestTarToClientThatFails(t *testing.T) {
	set, m := testSet(t)
	out := sink{refuse: true}
	e, _ := set.Resolve("tar", nil)
	in := input(t, m.add("", write(t, map[string]string{"big": strings.Repeat("x", 8<<20)})), nil)
	if _, err := e.Export(t.Context(), in, Request{Client: client(t, out.target(0))}); err == nil {
		t.Error("a tar that nobody took was exported")
	}
}

func TestLocalBytes(t *testing.T) {
	set, m := testSet(t)
	dir := t.TempDir()
	var last int64
	var s steps
	in := input(t, m.add("", write(t, map[string]string{"big": strings.Repeat("x", 1<<20)})), nil)
	export(t, set, "local", "", in, Request{
		Client:   client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDir(0, dir))),
		Progress: s.progress,
		Bytes:    func(id string, n int64) { last = n },
	})
	if last < 1<<20 || !slices.Equal(s.all, []string{"copying files"}) {
		t.Errorf("told %d bytes, steps %q", last, s.all)
	}
}

func TestMergedFS(t *testing.T) {
	set, m := testSet(t)
	_ = set
	open := func(files map[string]string) *viewFS {
		v, err := m.Files(t.Context(), m.add("", write(t, files)))
		if err != nil {
			t.Fatal(err)
		}
		f, err := newViewFS(v, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	fsys := mergedFS{open(map[string]string{"a/b": "1", "a-b": "1", "z": "1"}), open(map[string]string{"a/c": "2", "z": "2", "a.": "2"})}
	var got []string
	err := fsys.Walk(t.Context(), "", func(p string, _ fs.DirEntry, err error) error {
		got = append(got, p)
		return err
	})
	if err != nil || strings.Join(got, " ") != "a a/b a/c a-b a. z" {
		t.Errorf("walked %v, %v", got, err)
	}
	stop := errors.New("stop")
	if err := fsys.Walk(t.Context(), "", func(string, fs.DirEntry, error) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if err := fsys.Walk(ctx, "", func(string, fs.DirEntry, error) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled with %v", err)
	}
}
