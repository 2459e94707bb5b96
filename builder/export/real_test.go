package export

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/image"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/moby/buildkit/session/filesync"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// stores are the stores of a daemon.
type stores struct {
	dir    string
	trees  *tree.Store
	blobs  *blob.Store
	images *image.Store
	set    *Set
}

func openStores(t *testing.T) *stores {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: overlay mounts need root")
	}
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := stores{dir: dir}
	var err error
	s.blobs, err = blob.Open(filepath.Join(dir, "blobs"))
	must(err)
	s.trees, err = tree.Open(tree.Config{Dir: filepath.Join(dir, "trees"), Blobs: s.blobs})
	must(err)
	s.images, err = image.Open(image.Config{Path: filepath.Join(dir, "images.db")})
	must(err)
	hosts, err := registry.NewHosts(registry.Options{})
	must(err)
	s.set = NewSet(Config{Trees: s.trees, Blobs: s.blobs, Images: s.images, Resolver: func(c session.Client, insecure bool) remotes.Resolver {
		return hosts.Resolver(c, registry.ResolverOptions{Insecure: insecure})
	}})
	t.Cleanup(func() {
		must(s.trees.Close())
		must(s.images.Close())
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must(err)
		if strings.Contains(string(mounts), dir) {
			t.Errorf("mounts are left below %s", dir)
		}
	})
	return &s
}

// build makes a tree of two layers: files put in place, and changes through an
// overlay mount as a RUN makes them.
func (s *stores) build(t *testing.T) cache.Tree {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := s.trees.NewDraft(t.Context(), "")
	must(err)
	write(t, map[string]string{
		"etc/passwd": "root", "etc/old": "x", "bin/": "", "sbin": "-> bin",
		"var/cache/a": "1", "var/cache/b": "2", "opt/x/y": "deep", "moved/f": "f",
	})(d.Dir)
	base, err := d.Commit(t.Context(), nil)
	must(err)
	f, err := s.trees.Fork(t.Context(), base)
	must(err)
	at := func(name string) string { return filepath.Join(f.Dir, name) }
	must(os.WriteFile(at("etc/passwd"), []byte("root,you"), 0o600))
	must(os.Remove(at("etc/old")))
	must(os.WriteFile(at("bin/a"), []byte("tool"), 0o755))
	must(os.Link(at("bin/a"), at("bin/b")))
	must(os.RemoveAll(at("var/cache")))
	must(os.MkdirAll(at("var/cache/new"), 0o711)) // opaque
	must(os.RemoveAll(at("opt/x")))
	must(os.WriteFile(at("opt/x"), []byte("now a file"), 0o644))
	must(os.WriteFile(at("own"), []byte("x"), 0o644))
	must(os.Chown(at("own"), 1000, 70000))
	must(os.Chmod(at("own"), os.ModeSetuid|0o755))
	must(unix.Setxattr(at("own"), "user.k", []byte("v"), 0))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mkfifo(at("pipe"), 0o622))
	must(os.WriteFile(at(strings.Repeat("n", 200)), []byte("long"), 0o644))
	must(os.Symlink("/"+strings.Repeat("t/", 90), at("far")))
	tr, err := f.Commit(t.Context())
	must(err)
	lease := s.trees.Lease(t.Name())
	must(lease.Add(tr))
	t.Cleanup(lease.Release)
	return tr
}

// describeDir lists what a directory holds, all but times, as a view has it.
func describeDir(t *testing.T, dir string) []string {
	t.Helper()
	x, err := digest.Scan(t.Context(), dir, digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return describeView(t, digest.NewView([]digest.Layer{{Dir: dir, Index: x}}))
}

func describeView(t *testing.T, v *digest.View) []string {
	t.Helper()
	var out []string
	err := v.Walk("/", func(p string, e digest.Entry) error {
		if p != "/" { // tools differ in what the root is like
			out = append(out, fmt.Sprintf("%s %o %d:%d %d %s %d,%d %v %x", p, e.Mode, e.UID, e.GID, e.Size, e.Link, e.Major, e.Minor, e.Xattrs, e.Hash[:4]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func diff(t *testing.T, what string, got, want []string) {
	t.Helper()
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("%s: there is %s", what, l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%s: there is no %s", what, l)
		}
	}
}

// Every way out of the real stores gives the files that a step would see.
func TestSameFilesEveryWay(t *testing.T) {
	s := openStores(t)
	tr := s.build(t)
	in := input(t, tr, map[string]string{"containerimage.config": amd64})
	mount, err := s.trees.View(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	want := describeDir(t, mount.Dir)
	if err := mount.Close(); err != nil {
		t.Fatal(err)
	}
	if len(want) < 14 {
		t.Fatalf("the tree holds only %q", want)
	}

	for _, compression := range []string{"gzip", "zstd", "uncompressed"} {
		var out sink
		export(t, s.set, "oci", "name=x;compression="+compression, in, Request{Client: client(t, out.target(0))})
		layout := t.TempDir()
		run(t, "tar", "-xf", save(t, out.Bytes()), "-C", layout)
		if compression == "zstd" { // this umoci reads none, but skopeo does
			plain := t.TempDir()
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+layout+":latest", "dir:"+plain, "--dest-decompress")
			continue
		}
		bundle := filepath.Join(t.TempDir(), "bundle")
		run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
		diff(t, "umoci "+compression, describeDir(t, filepath.Join(bundle, "rootfs")), want)
	}

	var out sink
	export(t, s.set, "tar", "", in, Request{Client: client(t, out.target(0))})
	root := t.TempDir()
	run(t, "tar", "--xattrs", "--xattrs-include=*", "-xpf", save(t, out.Bytes()), "-C", root)
	diff(t, "tar", describeDir(t, root), want)

	// Clients make files their user's own.
	dir := t.TempDir()
	export(t, s.set, "local", "", in, Request{Client: client(t, filesync.NewFSSyncTarget(filesync.WithFSSyncDir(0, dir)))})
	mine := slices.Clone(want)
	for i := range mine {
		mine[i] = strings.Replace(mine[i], "1000:70000", "0:0", 1)
	}
	diff(t, "local", describeDir(t, dir), mine)
}

// An image from the image store can be built upon: its layers unpack to what
// they were packed from.
func TestImageComesBack(t *testing.T) {
	s := openStores(t)
	tr := s.build(t)
	want, err := s.trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	export(t, s.set, "image", "name=mine", input(t, tr, map[string]string{"containerimage.config": amd64}), Request{})
	desc, err := s.images.Get(t.Context(), "docker.io/library/mine:latest")
	if err != nil {
		t.Fatal(err)
	}
	mf := read[ocispecs.Manifest](t, s.blobs, desc)
	img := read[ocispecs.Image](t, s.blobs, mf.Config)
	var chain []tree.ImageLayer
	for i, l := range mf.Layers {
		chain = append(chain, tree.ImageLayer{DiffID: img.RootFS.DiffIDs[i], Desc: l})
	}
	back, err := s.trees.AddImage(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.trees.Ensure(t.Context(), back, nil, nil); err != nil {
		t.Fatal(err)
	}
	got, err := s.trees.Files(t.Context(), back)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "image", describeView(t, got), describeView(t, want))
}

// Two builds on two state directories, at different times, give the same bytes.
func TestReproducible(t *testing.T) {
	var first []byte
	for range 2 {
		s := openStores(t)
		in := input(t, s.build(t), map[string]string{"containerimage.config": amd64})
		var out sink
		export(t, s.set, "oci", "name=x;rewrite-timestamp=true;source-date-epoch=1500000000", in, Request{Client: client(t, out.target(0))})
		if first == nil {
			first = out.Bytes()
		} else if !bytes.Equal(first, out.Bytes()) {
			t.Error("two builds of the same files differ")
		}
	}
}

func TestPushFromRealStores(t *testing.T) {
	s := openStores(t)
	tr := s.build(t)
	addr := startRegistry(t)
	in := multi(t, nil, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": tr})
	in.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}}
	name := addr + "/multi:v1"
	res := export(t, s.set, "image", "push=true;compression=zstd;compression-level=3;oci-artifact=false;name="+name, in, Request{})
	if _, err := s.images.Get(t.Context(), name); err == nil {
		t.Error("a pushed image is named here")
	}
	pull(t, name, s.blobs, *res.Descriptor)
}

// The export of an image that is given up leaves nothing running and no upload
// half done in the blob store.
func TestCancelled(t *testing.T) {
	s := openStores(t)
	tr := s.build(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, typ := range []string{"image", "oci", "tar", "local"} {
		var out sink
		e, err := s.set.Resolve(typ, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Export(ctx, input(t, tr, nil), Request{Client: client(t, out.target(0))}); err == nil {
			t.Errorf("type=%s: a cancelled export succeeded", typ)
		}
	}
	left, err := s.blobs.ListStatuses(t.Context())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
