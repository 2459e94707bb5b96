package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/network"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native"
)

var nativeRuntime runtime.Runtime

func TestMain(m *testing.M) {
	native.Init()
	os.Exit(func() int {
		if os.Getuid() != 0 {
			return m.Run()
		}
		r, err := native.New(native.Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, "native runtime:", err)
			return 1
		}
		defer r.Close()
		nativeRuntime = r
		return m.Run()
	}())
}

// node is one machine's stores.
type node struct {
	dir   string
	trees *tree.Store
	blobs *blob.Store
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root for mounts, owners and devices")
	}
	n := &node{dir: t.TempDir()}
	n.open(t)
	t.Cleanup(func() {
		if err := n.trees.Close(); err != nil {
			t.Error(err)
		}
		for _, d := range []string{"trees/drafts", "run"} {
			if left, err := os.ReadDir(filepath.Join(n.dir, d)); err == nil && len(left) > 0 {
				t.Errorf("left behind in %s: %v", d, left)
			}
		}
		left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.dir))
		if err != nil || len(left) > 0 {
			t.Errorf("mounts left behind: %v %v", left, err)
		}
	})
	return n
}

func (n *node) open(t testing.TB) {
	t.Helper()
	var err error
	if n.blobs, err = blob.Open(filepath.Join(n.dir, "blobs")); err != nil {
		t.Fatal(err)
	}
	n.trees, err = tree.Open(tree.Config{Dir: filepath.Join(n.dir, "trees"), Blobs: n.blobs, Spare: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
}

// worker returns what runs steps on the node.
func (n *node) worker(t testing.TB) *op.Worker {
	t.Helper()
	caches, err := mount.OpenCaches(filepath.Join(n.dir, "caches"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := op.New(op.Config{
		Dir: filepath.Join(n.dir, "run"), Trees: n.trees, Runtime: nativeRuntime, Caches: caches,
		Networks: map[pb.NetMode]network.Provider{pb.NetMode_UNSET: network.None{}, pb.NetMode_NONE: network.None{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// remoteNode is a worker that is served on loopback.
type remoteNode struct {
	*node
	*Server
	addr string
	stop func() // as if the machine failed
}

// newRemoteNode serves steps; nil are those of a real worker.
func newRemoteNode(t testing.TB, steps Steps, more ...func(*ServerConfig)) *remoteNode {
	t.Helper()
	n := newNode(t)
	if steps == nil {
		steps = n.worker(t)
	}
	c := ServerConfig{Steps: steps, Trees: n.trees, Blobs: n.blobs, Dir: n.dir, ID: "id", Version: "test", Platforms: []string{"linux/amd64"}, Log: testLog(t)}
	for _, f := range more {
		f(&c)
	}
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	out := &remoteNode{node: n, Server: s}
	out.addr, out.stop = serve(t, "", s)
	return out
}

// serve serves a worker at addr, or anywhere.
func serve(t testing.TB, addr string, w workerv1.WorkerServer) (at string, stop func()) {
	t.Helper()
	if addr == "" {
		addr = "tcp://127.0.0.1:0"
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(addr, "tcp://"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(ServerOptions()...)
	workerv1.RegisterWorkerServer(srv, w)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	stop = sync.OnceFunc(func() {
		srv.Stop()
		serving.Wait()
	})
	t.Cleanup(stop)
	return "tcp://" + l.Addr().String(), stop
}

func dial(t testing.TB, addr string) workerv1.WorkerClient {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(addr, "tcp://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return workerv1.NewWorkerClient(conn)
}

// newRemote returns a daemon's side of workers.
func (n *node) newRemote(t testing.TB, addrs ...string) *Remote {
	t.Helper()
	r, err := NewRemote(RemoteConfig{Workers: addrs, Trees: n.trees, Blobs: n.blobs, Patience: 2 * time.Second, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// logs collects what is logged, for tests to look at.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testLog(testing.TB) *slog.Logger { return slog.New(slog.DiscardHandler) }

// busybox is a root file system with little more than a shell.
func (n *node) busybox(t testing.TB) cache.Tree {
	t.Helper()
	bin, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIPPED: needs busybox-static")
	}
	return n.grow(t, "", func(dir string) error {
		script := fmt.Sprintf("mkdir %[1]s/bin && cp %[2]s %[1]s/bin/busybox && for a in sh cat ls stat echo sleep ln touch mkdir rm kill id true wc chmod; do ln -s busybox %[1]s/bin/$a; done", dir, bin)
		return exec.Command("sh", "-c", script).Run()
	})
}

func (n *node) grow(t testing.TB, parent cache.Tree, fill func(dir string) error) cache.Tree {
	t.Helper()
	d, err := n.trees.NewDraft(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(d.Dir); err != nil {
		t.Fatal(err)
	}
	out, err := d.Commit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (n *node) file(t testing.TB, parent cache.Tree, name, content string) cache.Tree {
	t.Helper()
	return n.grow(t, parent, func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644) })
}

func (n *node) read(t testing.TB, tr cache.Tree, path string) string {
	t.Helper()
	v, err := n.trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shell is a step that runs a script over the first input.
func shell(script string, mounts ...*pb.Mount) *pb.Op {
	x := &pb.ExecOp{
		Meta:   &pb.Meta{Args: []string{"/bin/sh", "-c", script}, Cwd: "/"},
		Mounts: append([]*pb.Mount{{Dest: "/", Input: 0, Output: 0}}, mounts...),
	}
	n := 0
	for _, m := range x.Mounts {
		n = max(n, int(m.Input)+1)
	}
	return &pb.Op{Inputs: make([]*pb.Input, n), Op: &pb.Op_Exec{Exec: x}}
}

// record is a Progress that keeps what it hears.
type record struct {
	mu       sync.Mutex
	out      strings.Builder
	statuses map[string]solver.Status
	wrote    chan struct{} // closed with the first output
}

func newRecord() *record {
	return &record{statuses: map[string]solver.Status{}, wrote: make(chan struct{})}
}

func (r *record) Log(stream int, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out.Len() == 0 {
		close(r.wrote)
	}
	fmt.Fprintf(&r.out, "%d:%s", stream, p)
}

func (r *record) Status(s solver.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statuses[s.ID] = s
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()
}

// run runs a step with a time limit.
func run(t testing.TB, s Steps, o *pb.Op, inputs ...cache.Tree) ([]cache.Tree, *record, error) {
	t.Helper()
	rec := newRecord()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := s.Run(ctx, op.Request{Name: "step", Op: o, Inputs: inputs, Progress: rec})
	return out, rec, err
}

// stepsFunc is Steps of a function.
type stepsFunc func(ctx context.Context, r op.Request) ([]cache.Tree, error)

func (f stepsFunc) Run(ctx context.Context, r op.Request) ([]cache.Tree, error) { return f(ctx, r) }

// eventually waits for something that happens soon.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}
