package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

// imageLayer puts a compressed tar of files, "name=content", into the blob store.
func (n *node) imageLayer(t *testing.T, entries ...string) tree.ImageLayer {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, e := range entries {
		name, text, _ := strings.Cut(e, "=")
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1000, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, text); err != nil {
			t.Fatal(err)
		}
	}
	c := layer.Compression{Type: layer.Gzip, Level: layer.DefaultLevel}
	zw, err := layer.NewWriter(&packed, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(tw.Close(), copyTo(zw, plain.Bytes()), zw.Close()); err != nil {
		t.Fatal(err)
	}
	desc := ocispecs.Descriptor{MediaType: c.MediaType(true), Digest: digest.FromBytes(packed.Bytes()), Size: int64(packed.Len())}
	if err := n.blobs.Ingest(t.Context(), desc, &packed); err != nil {
		t.Fatal(err)
	}
	return tree.ImageLayer{DiffID: digest.FromBytes(plain.Bytes()), Desc: desc}
}

func copyTo(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// TestImageLayers sends layers of an image as the blobs that they came as.
func TestImageLayers(t *testing.T) {
	daemon := newNode(t)
	var seen []string
	var w *remoteNode
	w = newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) {
		seen = append(seen, w.read(t, r.Inputs[0], "/f"))
		return r.Inputs[:1], nil
	}))
	img, err := daemon.trees.AddImage(t.Context(), []tree.ImageLayer{
		daemon.imageLayer(t, "f=1", "dir/a=a"), daemon.imageLayer(t, "f=2"), daemon.imageLayer(t, "f=3", "dir/b=b"),
	})
	if err != nil {
		t.Fatal(err)
	}
	remote := daemon.newRemote(t, w.addr)
	out, rec, err := run(t, remote, shell("true"), img)
	if err != nil || out[0] != img || len(seen) != 1 || seen[0] != "3" {
		t.Fatal(out, seen, err)
	}
	if len(rec.statuses) < 6 { // sent and unpacked
		t.Errorf("progress %+v", rec.statuses)
	}
	for id, s := range rec.statuses {
		if s.Completed.IsZero() || s.Current != s.Total {
			t.Errorf("part %s never ended: %+v", id, s)
		}
	}
	// A part of an image, which needs the rest only to be unpacked.
	if err := daemon.trees.Ensure(t.Context(), img, nil, nil); err != nil {
		t.Fatal(err)
	}
	fresh := newRemoteNode(t, w.cfg.Steps)
	w = fresh
	base, err := daemon.trees.AddImage(t.Context(), []tree.ImageLayer{daemon.imageLayer(t, "f=1", "dir/a=a"), daemon.imageLayer(t, "f=2")})
	if err != nil {
		t.Fatal(err)
	}
	top, err := daemon.trees.Diff(t.Context(), base, img)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err = run(t, daemon.newRemote(t, fresh.addr), shell("true"), top)
	if err != nil || out[0] != top || seen[len(seen)-1] != "3" {
		t.Fatal(out, seen, err)
	}
	// A blob that went missing is told by name.
	l, err := daemon.trees.Layers(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.blobs.Delete(t.Context(), l[1].Desc.Digest); err != nil {
		t.Fatal(err)
	}
	empty := newRemoteNode(t, w.cfg.Steps)
	_, _, err = run(t, daemon.newRemote(t, empty.addr), shell("true"), img)
	if err == nil || !strings.Contains(err.Error(), l[1].Desc.Digest.String()) {
		t.Errorf("error %v", err)
	}
}

// TestWrongImage announces a blob that is not what the image says.
func TestWrongImage(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) { return r.Inputs, nil }))
	l := daemon.imageLayer(t, "f=1")
	l.DiffID = digest.FromString("something else")
	img, err := daemon.trees.AddImage(t.Context(), []tree.ImageLayer{l})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = run(t, daemon.newRemote(t, w.addr), shell("true"), img)
	if err == nil || !strings.Contains(err.Error(), "the image says") {
		t.Errorf("error %v", err)
	}
}

func TestGetBlob(t *testing.T) {
	w := newRemoteNode(t, nil)
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	d := digest.FromBytes(content)
	if err := w.blobs.Ingest(t.Context(), ocispecs.Descriptor{Digest: d, Size: int64(len(content))}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	s, err := dial(t, w.addr).GetBlob(t.Context(), &workerv1.GetBlobRequest{Digest: d.String()})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(&chunks{next: func() ([]byte, error) {
		m, err := s.Recv()
		return m.GetData(), err
	}})
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func (n *remoteNode) has(t *testing.T, from *node, tr cache.Tree) bool {
	t.Helper()
	layers, err := from.trees.Layers(tr)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if _, err := n.trees.Layer(l.ID); err != nil {
			return false
		}
	}
	return true
}

// collect removes what no lease keeps.
func (n *remoteNode) collect(t *testing.T) {
	t.Helper()
	kept, err := n.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var roots []cache.Tree
	for _, k := range kept {
		roots = append(roots, k.Trees...)
	}
	if _, err := n.trees.Sweep(t.Context(), roots); err != nil {
		t.Fatal(err)
	}
}

func TestLeases(t *testing.T) {
	daemon := newNode(t)
	hold := make(chan struct{})
	w := newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) {
		if r.Name == "slow" {
			<-hold
		}
		return r.Inputs, nil
	}), func(c *ServerConfig) { c.LeaseTime = time.Hour })
	clock := time.Now()
	w.leases.now = func() time.Time { return clock }
	remote := daemon.newRemote(t, w.addr)
	a, b, c := daemon.file(t, "", "a", "1"), daemon.file(t, "", "b", "1"), daemon.file(t, "", "c", "1")
	if _, _, err := run(t, remote, shell("true"), a); err != nil {
		t.Fatal(err)
	}
	slow := make(chan error)
	go func() {
		_, err := remote.Run(context.WithoutCancel(t.Context()), op.Request{Name: "slow", Op: shell("true"), Inputs: []cache.Tree{b}})
		slow <- err
	}()
	eventually(t, "the slow step runs", func() bool { return w.running.Load() == 1 })
	clock = clock.Add(50 * time.Minute)
	if _, _, err := run(t, remote, shell("true"), c); err != nil {
		t.Fatal(err)
	}
	w.collect(t)
	if !w.has(t, daemon, a) || !w.has(t, daemon, b) || !w.has(t, daemon, c) {
		t.Error("a layer went before its time")
	}
	clock = clock.Add(20 * time.Minute)
	w.collect(t)
	if w.has(t, daemon, a) || !w.has(t, daemon, b) || !w.has(t, daemon, c) {
		t.Error("a lease ended that was in use or fresh, or one that had run out did not")
	}
	kept, err := w.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		switch err := w.Evict(t.Context(), k.ID); {
		case k.InUse && !errors.Is(err, gc.ErrInUse):
			t.Errorf("a lease in use was evicted: %v", err)
		case !k.InUse && err != nil:
			t.Error(err)
		}
	}
	if err := w.Evict(t.Context(), "none"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	w.collect(t)
	if !w.has(t, daemon, b) || w.has(t, daemon, c) {
		t.Error("of two layers the wrong one was evicted")
	}
	close(hold)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	// What went is sent again.
	if out, _, err := run(t, remote, shell("true"), a); err != nil || out[0] != a {
		t.Error(out, err)
	}
	if _, _, err := w.leases.use(strings.Repeat("x", maxID+1)); err == nil {
		t.Error("a lease of any name")
	}
}

// TestAdopt starts a worker anew: it keeps what it had.
func TestAdopt(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) { return r.Inputs, nil }))
	in := daemon.file(t, daemon.file(t, "", "a", "1"), "b", "1")
	if _, _, err := run(t, daemon.newRemote(t, w.addr), shell("true"), in); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := w.trees.Close(); err != nil {
		t.Fatal(err)
	}
	w.open(t)
	w.cfg.Trees, w.cfg.Blobs = w.trees, w.blobs
	s, err := NewServer(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Server = s
	w.collect(t)
	if !w.has(t, daemon, in) {
		t.Error("it forgot its layers")
	}
	addr, _ := serve(t, "", s)
	if _, rec, err := run(t, daemon.newRemote(t, addr), shell("true"), in); err != nil || len(rec.statuses) > 0 {
		t.Errorf("%v, sent again %v", err, rec.statuses)
	}
}

// TestLogs looks at what is said of workers that come and go.
func TestLogs(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) { return r.Inputs, nil }))
	l, in := &logs{}, daemon.file(t, "", "f", "1")
	w.stop()
	remote, err := NewRemote(RemoteConfig{
		Workers: []string{w.addr}, Trees: daemon.trees, Blobs: daemon.blobs, Patience: 300 * time.Millisecond, Log: slog.New(slog.NewTextHandler(l, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	for range 3 {
		if _, _, err := run(t, remote, shell("true"), in); !errors.Is(err, errNoWorker) {
			t.Errorf("error %v", err)
		}
	}
	if n := strings.Count(l.String(), "left out"); n != 1 {
		t.Errorf("%d times it says that the worker is left out:\n%s", n, l)
	}
	serve(t, w.addr, w.Server)
	eventually(t, "a step runs", func() bool {
		_, _, err := run(t, remote, shell("true"), in)
		return err == nil
	})
	if n := strings.Count(l.String(), "can be reached again"); n != 1 {
		t.Errorf("%d times it says that the worker is back:\n%s", n, l)
	}
	if infos := remote.Workers(t.Context()); len(infos) != 1 || infos[0].Id != "id" || infos[0].LeaseSeconds != 48*3600 || infos[0].FreeBytes == 0 {
		t.Errorf("workers %+v", infos)
	}
	for _, addr := range []string{"127.0.0.1:1", "http://x:1", "tcp://x", "tcp://:1", "tcp://x:1/y", "unix://rel/path", "tcp://[::1"} {
		if _, err := NewRemote(RemoteConfig{Workers: []string{addr}, Trees: daemon.trees, Blobs: daemon.blobs}); err == nil || !strings.Contains(err.Error(), addr) {
			t.Errorf("address %q: %v", addr, err)
		}
	}
}

func TestForgetCaches(t *testing.T) {
	daemon := newNode(t)
	n := newNode(t)
	steps := n.worker(t)
	s, err := NewServer(ServerConfig{Steps: steps, Caches: steps.Caches, Trees: n.trees, Blobs: n.blobs, Dir: n.dir})
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := serve(t, "", s)
	base, remote := daemon.busybox(t), daemon.newRemote(t, addr, "tcp://127.0.0.1:1")
	count := func() string {
		t.Helper()
		_, rec, err := run(t, remote, shell("echo x >> /c/f; wc -l < /c/f", &pb.Mount{
			Dest: "/c", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "id"},
		}), base)
		if err != nil {
			t.Fatal(err)
		}
		return rec.String()
	}
	if got := count() + count(); got != "1:1\n1:2\n" {
		t.Errorf("cache counts %q", got)
	}
	if err := remote.Forget(t.Context(), "other"); err != nil {
		t.Error(err)
	}
	if got := count(); got != "1:3\n" {
		t.Errorf("cache counts %q", got)
	}
	if err := remote.Forget(t.Context(), "id", "other"); err != nil {
		t.Error(err)
	}
	if got := count(); got != "1:1\n" {
		t.Errorf("a forgotten cache counts %q", got)
	}
}
