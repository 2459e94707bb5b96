package op

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/moby/buildkit/solver/pb"
)

// fileOp wraps actions, each of which goes on where the one before ended; the
// first begins with input 0, and the last is the output.
func fileOp(inputs int, actions ...*pb.FileAction) *pb.Op {
	for i, a := range actions {
		a.Output = none
		if i > 0 {
			a.Input = int64(inputs + i - 1)
		}
	}
	actions[len(actions)-1].Output = 0
	return &pb.Op{Inputs: make([]*pb.Input, inputs), Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func copyAction(from int64, c *pb.FileActionCopy) *pb.FileAction {
	if c.Mode == 0 {
		c.Mode = -1
	}
	if c.Timestamp == 0 {
		c.Timestamp = -1
	}
	return &pb.FileAction{SecondaryInput: from, Action: &pb.FileAction_Copy{Copy: c}}
}

func mkfile(path string, mode int32, data string) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: none, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: path, Mode: mode, Data: []byte(data), Timestamp: -1}}}
}

func mkdir(path string, mode int32, parents bool) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: none, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: path, Mode: mode, MakeParents: parents, Timestamp: -1}}}
}

func rm(path string, wildcard, notFound bool) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: none, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: path, AllowWildcard: wildcard, AllowNotFound: notFound}}}
}

func symlink(old, path string) *pb.FileAction {
	return &pb.FileAction{SecondaryInput: none, Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: old, Newpath: path, Timestamp: -1}}}
}

func byName(name string, in int64) *pb.UserOpt {
	return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: name, Input: in}}}
}

func byID(id uint32) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: id}} }

func runFile(t testing.TB, w *Worker, op *pb.Op, inputs ...cache.Tree) ([]cache.Tree, error) {
	t.Helper()
	return w.Run(t.Context(), Request{Op: op, Inputs: inputs})
}

func TestFileActions(t *testing.T) {
	w := newWorker(t)
	base := grow(t, w, "", "d etc", "f:600 etc/passwd old", "d bin", "l sbin bin", "f bin/tool x", "l bin/link tool", "d:700 var/deep/er", "l abs /var/deep")
	all := files(t, w, base)
	with := func(more ...string) []string { return append(slices.Clone(all), more...) }
	without := func(prefix ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(l string) bool {
			path := strings.Fields(l)[1] + " "
			return slices.ContainsFunc(prefix, func(p string) bool { return strings.HasPrefix(path, p) })
		})
	}
	for _, c := range []struct {
		name    string
		actions []*pb.FileAction
		want    []string
		err     error  // of what Run returns
		says    string // in its text
		top     []string
	}{
		{name: "mkfile", actions: []*pb.FileAction{mkfile("/etc/new", 0o640, "hi")}, want: with("f:640 /etc/new hi"), top: []string{"/etc", "/etc/new"}},
		{name: "mkfile through links", actions: []*pb.FileAction{mkfile("/sbin/../abs/er/../new", 0o644, "")}, want: with("f:644 /var/deep/new")},
		{name: "mkfile replaces", actions: []*pb.FileAction{mkfile("/etc/passwd", 0o644, "new")}, want: append(without("/etc/passwd"), "f:644 /etc/passwd new"),
			top: []string{"/etc", "/etc/passwd"}},
		{name: "mkfile follows a link", actions: []*pb.FileAction{mkfile("/bin/link", 0o644, "new")}, want: append(without("/bin/tool"), "f:644 /bin/tool new")},
		{name: "mkfile on directory", actions: []*pb.FileAction{mkfile("/etc", 0o644, "new")}, err: syscall.EISDIR, says: "/etc"},
		{name: "mkfile on root", actions: []*pb.FileAction{mkfile("/", 0o644, "new")}, err: syscall.EISDIR},
		{name: "mkfile without directory", actions: []*pb.FileAction{mkfile("/no/new", 0o644, "new")}, err: fs.ErrNotExist, says: "/no/new"},
		{name: "mkfile below file", actions: []*pb.FileAction{mkfile("/etc/passwd/new", 0o644, "new")}, err: syscall.ENOTDIR},
		{name: "mkdir", actions: []*pb.FileAction{mkdir("/new", 0o711, false)}, want: with("d:711 /new"), top: []string{"/new"}},
		{name: "mkdir exists", actions: []*pb.FileAction{mkdir("/etc", 0o711, false)}, want: all},
		{name: "mkdir without parent", actions: []*pb.FileAction{mkdir("/a/b", 0o711, false)}, err: fs.ErrNotExist},
		{name: "mkdir parents", actions: []*pb.FileAction{mkdir("/sbin/a/b", 0o711, true)}, want: with("d:711 /bin/a", "d:711 /bin/a/b")},
		{name: "mkdir parents on file", actions: []*pb.FileAction{mkdir("/etc/passwd/x", 0o711, true)}, err: syscall.ENOTDIR},
		{name: "symlink", actions: []*pb.FileAction{symlink("../x", "/etc/ln")}, want: with("l /etc/ln ../x")},
		{name: "symlink exists", actions: []*pb.FileAction{symlink("../x", "/etc/passwd")}, err: fs.ErrExist},
		{name: "rm file", actions: []*pb.FileAction{rm("/bin/tool", false, false)}, want: without("/bin/tool "), top: []string{"/bin", "w /bin/tool"}},
		{name: "rm link itself", actions: []*pb.FileAction{rm("/sbin", false, false)}, want: without("/sbin "), top: []string{"w /sbin"}},
		{name: "rm through link", actions: []*pb.FileAction{rm("/sbin/tool", false, false)}, want: without("/bin/tool ")},
		{name: "rm directory", actions: []*pb.FileAction{rm("/var", false, false)}, want: without("/var"), top: []string{"w /var"}},
		{name: "rm missing", actions: []*pb.FileAction{rm("/nope", false, false)}, err: fs.ErrNotExist, says: "/nope"},
		{name: "rm missing allowed", actions: []*pb.FileAction{rm("/nope/x", false, true)}, want: all},
		{name: "rm wildcard", actions: []*pb.FileAction{rm("/b*/*", true, false)}, want: without("/bin/")},
		{name: "rm wildcard without match", actions: []*pb.FileAction{rm("/zz*", true, false)}, want: all},
		{name: "rm root", actions: []*pb.FileAction{rm("/x/..", false, false)}, says: "root directory"},
		{name: "rm then mkdir hides", actions: []*pb.FileAction{rm("/var", false, false), mkdir("/var", 0o755, false), mkfile("/var/x", 0o600, "y")},
			want: append(without("/var"), "d:755 /var", "f:600 /var/x y"), top: []string{"o /var", "/var/x"}},
		{name: "rm what was made", actions: []*pb.FileAction{mkdir("/n/e/w", 0o755, true), rm("/n", false, false)}, want: all, top: nil},
		{name: "file in place of directory", actions: []*pb.FileAction{rm("/etc", false, false), mkfile("/etc", 0o600, "f")},
			want: append(without("/etc"), "f:600 /etc f"), top: []string{"/etc"}},
		{name: "directory in place of file", actions: []*pb.FileAction{rm("/bin/tool", false, false), mkdir("/bin/tool", 0o755, false)},
			want: append(without("/bin/tool "), "d:755 /bin/tool"), top: []string{"/bin", "o /bin/tool"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := runFile(t, w, fileOp(1, c.actions...), base)
			if c.err != nil || c.says != "" {
				if err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want %v with %q", err, c.err, c.says)
				}
				if strings.Contains(err.Error(), w.Dir[:strings.LastIndex(w.Dir, "/")]) {
					t.Errorf("error names a path of the host: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, w, out[0], c.want...)
			if got := top(t, w, out[0]); c.top != nil && !slices.Equal(got, c.top) {
				t.Errorf("layer holds %q, want %q", got, c.top)
			}
		})
	}
}

func TestFileOwners(t *testing.T) {
	w := newWorker(t)
	base := grow(t, w, "", `f etc/passwd root:x:0:0:::\nbob:x:7:8::/home/bob:/bin/sh\n`, `f etc/group staff:x:50:\n`, "f a x")
	other := grow(t, w, "", "d usr", "l etc usr", `f usr/passwd bob:x:70:80:::\n`)
	mk := func(user, group *pb.UserOpt) *pb.FileAction {
		a := mkfile("/f", 0o600, "")
		a.GetMkfile().Owner = &pb.ChownOpt{User: user, Group: group}
		return a
	}
	for _, c := range []struct {
		name string
		a    *pb.FileAction
		want string
	}{
		{"name", mk(byName("bob", 0), nil), "f:600:7:8 /f"},
		{"name and group", mk(byName("bob", 0), byName("staff", 0)), "f:600:7:50 /f"},
		{"id", mk(byID(1000), nil), "f:600:1000:1000 /f"},
		{"id and group", mk(byID(1000), byName("staff", 0)), "f:600:1000:50 /f"},
		{"other input", mk(byName("bob", 1), nil), "f:600:70:80 /f"},
		{"unknown is root", mk(byName("eve", 0), byName("eve", 0)), "f:600 /f"},
		{"no file is root", mk(nil, byName("staff", 1)), "f:600 /f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := runFile(t, w, fileOp(2, c.a), base, other)
			if err != nil {
				t.Fatal(err)
			}
			if got := files(t, w, out[0]); !slices.Contains(got, c.want) {
				t.Errorf("%q is not in %q", c.want, got)
			}
		})
	}
	t.Run("user made by the same op", func(t *testing.T) {
		a := mkfile("/f", 0o600, "")
		a.GetMkfile().Owner = &pb.ChownOpt{User: byName("new", 3)} // result of action 1
		op := fileOp(2, mkfile("/etc/passwd", 0o644, "x:x:1:1:::\n"), mkfile("/etc/passwd", 0o644, "new:x:9:9:::\n"), a)
		out, err := runFile(t, w, op, base, other)
		if err != nil {
			t.Fatal(err)
		}
		if got := files(t, w, out[0]); !slices.Contains(got, "f:600:9:9 /f") {
			t.Errorf("owner was not looked up in what the op wrote: %q", got)
		}
		if layers, _ := w.Trees.Layers(out[0]); len(layers) != 2 {
			t.Errorf("chained actions made %d layers, want one over the base", len(layers)-1)
		}
	})
}

func TestFileCopy(t *testing.T) {
	w := newWorker(t)
	src := grow(t, w, "", "f:600:5:6 a/one 1", "f a/two 2", "h a/again a/two", "l a/ln one", "d:700 a/sub", "f a/sub/three 3", "f b.txt b", "f c.txt c", "l way a")
	base := grow(t, w, "", "d dest", "f dest/one old")
	for _, c := range []struct {
		name string
		c    *pb.FileActionCopy
		want []string
		says string
	}{
		{name: "wildcard", c: &pb.FileActionCopy{Src: "/*.txt", Dest: "/dest/", AllowWildcard: true}, want: []string{"f:644 /dest/b.txt b", "f:644 /dest/c.txt c"}},
		{name: "wildcard without match", c: &pb.FileActionCopy{Src: "/*.zip", Dest: "/dest/", AllowWildcard: true}, says: "/*.zip: not found"},
		{name: "wildcard without match allowed", c: &pb.FileActionCopy{Src: "/*.zip", Dest: "/dest/", AllowWildcard: true, AllowEmptyWildcard: true}},
		{name: "missing", c: &pb.FileActionCopy{Src: "/zip", Dest: "/dest/"}, says: "/zip"},
		{name: "no parent", c: &pb.FileActionCopy{Src: "/b.txt", Dest: "/x/y/z"}, says: "/x/y"},
		{name: "make parent", c: &pb.FileActionCopy{Src: "/b.txt", Dest: "/x/y/z", CreateDestPath: true}, want: []string{"d:755 /x", "d:755 /x/y", "f:644 /x/y/z b"}},
		{name: "follow", c: &pb.FileActionCopy{Src: "/way/ln", Dest: "/x", FollowSymlink: true}, want: []string{"f:600:5:6 /x 1"}},
		{name: "no follow", c: &pb.FileActionCopy{Src: "/way/ln", Dest: "/x"}, want: []string{"l /x one"}},
		{name: "chmod", c: &pb.FileActionCopy{Src: "/a", Dest: "/x", Mode: 0o711}, want: []string{"d:711 /x", "f:711:5:6 /x/one 1", "f:711 /x/two 2",
			"f:711 /x/again 2", "l /x/ln one", "d:711 /x/sub", "f:711 /x/sub/three 3"}},
		{name: "symbolic chmod", c: &pb.FileActionCopy{Src: "/a/sub", Dest: "/x", ModeStr: "u=rwX,go=rX"}, want: []string{"d:755 /x", "f:644 /x/three 3"}},
		{name: "chown", c: &pb.FileActionCopy{Src: "/a/sub", Dest: "/x", Owner: &pb.ChownOpt{User: byID(3), Group: byID(4)}},
			want: []string{"d:700:3:4 /x", "f:644:3:4 /x/three 3"}},
		{name: "include", c: &pb.FileActionCopy{Src: "/", Dest: "/x/", DirCopyContents: true, CreateDestPath: true, IncludePatterns: []string{"a/sub/*"}},
			want: []string{"d:755 /x", "d:755 /x/a", "d:700 /x/a/sub", "f:644 /x/a/sub/three 3"}},
		{name: "required", c: &pb.FileActionCopy{Src: "/", Dest: "/x/", DirCopyContents: true, CreateDestPath: true,
			IncludePatterns: []string{"nope"}, RequiredPaths: []string{"/nope"}}, says: `"/nope": not found`},
		{name: "exclude", c: &pb.FileActionCopy{Src: "/", Dest: "/x/", DirCopyContents: true, CreateDestPath: true, ExcludePatterns: []string{"a", "*.txt"}},
			want: []string{"d:755 /x", "l /x/way a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := runFile(t, w, fileOp(2, copyAction(1, c.c)), base, src)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, w, out[0], append(c.want, "d:755 /dest", "f:644 /dest/one old")...)
		})
	}
}

// TestCopyLinks sees that a copy costs no bytes where it changes nothing, and
// that nothing is ever written through such a link.
func TestCopyLinks(t *testing.T) {
	w := newWorker(t)
	src := grow(t, w, "", "f a 1", "f b 2", "h c b")
	out, err := runFile(t, w, fileOp(2, copyAction(1, &pb.FileActionCopy{Src: "/", Dest: "/", DirCopyContents: true})), "", src)
	if err != nil {
		t.Fatal(err)
	}
	inode := func(tr cache.Tree, p string) uint64 {
		t.Helper()
		v, err := w.Trees.Files(t.Context(), tr)
		if err != nil {
			t.Fatal(err)
		}
		host, err := v.HostPath(p)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(host)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Sys().(*syscall.Stat_t).Ino
	}
	if inode(src, "/a") != inode(out[0], "/a") {
		t.Error("an unchanged file was copied, not linked")
	}
	v, _ := w.Trees.Files(t.Context(), out[0])
	if e, _ := v.Lstat("/c"); e.Hardlink != "b" {
		t.Errorf("hard link to b was lost: %+v", e)
	}
	// Every later action on the same files works on copies.
	chmod, err := runFile(t, w, fileOp(2,
		copyAction(1, &pb.FileActionCopy{Src: "/", Dest: "/", DirCopyContents: true}),
		copyAction(1, &pb.FileActionCopy{Src: "/a", Dest: "/a", Mode: 0o600}),
		mkfile("/b", 0o600, "changed")), "", src)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, w, chmod[0], "f:600 /a 1", "f:600 /b changed", "f:644 /c 2")
	expect(t, w, src, "f:644 /a 1", "f:644 /b 2", "f:644 /c 2")
	expect(t, w, out[0], "f:644 /a 1", "f:644 /b 2", "f:644 /c 2")
}

func TestFileGraph(t *testing.T) {
	w := newWorker(t)
	base := grow(t, w, "", "f base x")
	// Two outputs; action 1 and 2 both go on from action 0, and 3 copies out of 1.
	actions := []*pb.FileAction{mkfile("/zero", 0o600, "0"), mkfile("/one", 0o600, "1"), mkfile("/two", 0o600, "2"),
		copyAction(2, &pb.FileActionCopy{Src: "/one", Dest: "/three"})}
	in, out := []int64{0, 1, 1, 3}, []int64{none, none, 1, 0}
	for i, a := range actions {
		a.Input, a.Output = in[i], out[i]
	}
	got, err := runFile(t, w, &pb.Op{Inputs: make([]*pb.Input, 1), Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}, base)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, w, got[0], "f:644 /base x", "f:600 /zero 0", "f:600 /two 2", "f:600 /three 1")
	expect(t, w, got[1], "f:644 /base x", "f:600 /zero 0", "f:600 /two 2")
}

func TestFileActionErrorNamesAction(t *testing.T) {
	w := newWorker(t)
	_, err := runFile(t, w, fileOp(0, &pb.FileAction{Input: none, SecondaryInput: none, Action: mkdir("/a", 0o755, false).Action}, rm("/nope", false, false)))
	var ae *FileActionError
	if !errors.As(err, &ae) || ae.Index != 1 {
		t.Errorf("error %v, want one of action 1", err)
	}
}

func archive(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		data := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname = ""
			h.Size = int64(len(data))
		}
		h.ModTime = epoch
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			tw.Write([]byte(data))
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	w := newWorker(t)
	reg := func(name, data string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: data}
	}
	for _, c := range []struct {
		name    string
		headers []*tar.Header
		want    []string
		says    string
	}{
		{name: "plain", headers: []*tar.Header{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o700, Uid: 3}, reg("d/f", "x"),
			{Typeflag: tar.TypeSymlink, Name: "ln", Linkname: "/etc/x"}, {Typeflag: tar.TypeLink, Name: "hard", Linkname: "d/f"}, {Typeflag: tar.TypeFifo, Name: "p"}},
			want: []string{"d:700:3:0 /to/d", "f:644 /to/d/f x", "l /to/ln /etc/x", "f:644 /to/hard x", "p:644 /to/p"}},
		{name: "replaces", headers: []*tar.Header{reg("old", "new"), {Typeflag: tar.TypeDir, Name: "file"}, reg("dir", "now a file")},
			want: []string{"f:644 /to/old new", "d:644 /to/file", "f:644 /to/dir now a file"}},
		{name: "link of base", headers: []*tar.Header{{Typeflag: tar.TypeLink, Name: "hard", Linkname: "old"}}, want: []string{"f:644 /to/hard old"}},
		{name: "escape", headers: []*tar.Header{reg("../x", "")}, says: "leads out"},
		{name: "absolute", headers: []*tar.Header{reg("/x", "y")}, want: []string{"f:644 /to/x y"}},
		{name: "through link", headers: []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "up", Linkname: "/"}, reg("up/in", "y")}, want: []string{"l /to/up /", "f:644 /to/in y"}},
		{name: "through old link", headers: []*tar.Header{reg("out/in", "y")}, want: []string{"d:755 /to/etc", "f:644 /to/etc/in y"}},
		{name: "hard link out", headers: []*tar.Header{{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../etc/shadow"}}, says: "leads out"},
		{name: "hard link to nothing", headers: []*tar.Header{{Typeflag: tar.TypeLink, Name: "hard", Linkname: "/etc/shadow"}}, says: "/etc/shadow"},
		{name: "forged attribute", headers: []*tar.Header{{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := grow(t, w, "", "f etc/shadow secret", "f to/old old", "f to/file x", "f to/dir/x x", "l to/out /etc")
			data := archive(t, c.headers...)
			var z bytes.Buffer
			g := gzip.NewWriter(&z)
			g.Write(data)
			g.Close()
			src, err := runFile(t, w, fileOp(0, &pb.FileAction{Input: none, SecondaryInput: none, Action: mkfile("/a.tgz", 0o600, z.String()).Action}))
			if err != nil {
				t.Fatal(err)
			}
			out, err := runFile(t, w, fileOp(2, copyAction(1, &pb.FileActionCopy{Src: "/a.tgz", Dest: "/to", AttemptUnpackDockerCompatibility: true, CreateDestPath: true})), base, src[0])
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := files(t, w, out[0])
			for _, l := range c.want {
				if !slices.Contains(got, l) {
					t.Errorf("%q is not in\n  %s", l, strings.Join(got, "\n  "))
				}
			}
			if !slices.Contains(got, "f:644 /etc/shadow secret") {
				t.Errorf("a file outside was changed: %q", got)
			}
			if c.name == "forged attribute" && slices.Contains(top(t, w, out[0]), "o /to/dir") {
				t.Error("the archive forged an opaque directory")
			}
		})
	}
	t.Run("no archive", func(t *testing.T) {
		src := grow(t, w, "", "f plain.tar nothing of the kind")
		out, err := runFile(t, w, fileOp(2, copyAction(1, &pb.FileActionCopy{Src: "/plain.tar", Dest: "/to", AttemptUnpackDockerCompatibility: true})), "", src)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, w, out[0], "f:644 /to nothing of the kind")
	})
}
