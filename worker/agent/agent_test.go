package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

// entries are all layers of a tree, each with all that its index says.
func (n *node) entries(t *testing.T, tr cache.Tree) (ids []cache.LayerID, es [][]digest.Entry) {
	t.Helper()
	v, err := n.trees.Files(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range v.Layers() {
		es = append(es, l.Index.Entries())
	}
	layers, err := n.trees.Layers(tr)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		ids = append(ids, l.ID)
	}
	return ids, es
}

func TestStepRunsElsewhere(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base := daemon.busybox(t)
	out, rec, err := run(t, daemon.newRemote(t, w.addr), shell(
		"echo out; echo err >&2; mkdir /d && echo 1 > /d/f && ln /d/f /d/g && ln -s f /d/l && rm /bin/kill && rm -r /bin/id"), base)
	if err != nil {
		t.Fatal(err, rec)
	}
	if got := rec.String(); got != "1:out\n2:err\n" && got != "2:err\n1:out\n" {
		t.Errorf("output %q", got)
	}
	if len(out) != 1 {
		t.Fatalf("%d outputs", len(out))
	}
	// The same layers under the same names, to the nanosecond, on both machines.
	here, hereEntries := daemon.entries(t, out[0])
	there, err := w.trees.Append("", here...)
	if err != nil {
		t.Fatal(err)
	}
	if _, thereEntries := w.entries(t, there); !reflect.DeepEqual(hereEntries, thereEntries) {
		t.Errorf("layers are\n%+v\nhere and\n%+v\nthere", hereEntries, thereEntries)
	}
	if top := hereEntries[1]; len(here) != 2 || top[len(top)-1].Path != "d/l" || top[len(top)-2].Hardlink != "d/f" || top[len(top)-3].ModTime.Nanosecond() == 0 {
		t.Errorf("layer is %+v", hereEntries[1])
	}
	// What it has it is not sent again.
	out, rec, err = run(t, daemon.newRemote(t, w.addr), shell("cat /d/g"), out[0])
	if err != nil || rec.String() != "1:1\n" || len(rec.statuses) > 0 {
		t.Errorf("second step: %v, output %q, sent %v", err, rec, rec.statuses)
	}
	if local, err := daemon.trees.Content(t.Context(), out[0], cache.Root); err != nil || local.IsZero() {
		t.Error(local, err)
	}
}

// TestEqualToLocal runs steps on both machines and compares contents.
func TestEqualToLocal(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, local, remote := daemon.busybox(t), daemon.worker(t), daemon.newRemote(t, w.addr)
	files := daemon.file(t, daemon.file(t, "", "a", "one"), "b", "two")
	copyOp := &pb.Op{Inputs: make([]*pb.Input, 2), Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: 1, Output: -1, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/", Dest: "/in/", Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true}}},
		{Input: 2, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/made", Mode: 0o640, Data: []byte("data"), Timestamp: -1}}},
	}}}}
	both := shell("echo > /x; echo > /mnt/y", &pb.Mount{Dest: "/mnt", Input: 1, Output: 1})
	for name, c := range map[string]struct {
		op     *pb.Op
		inputs []cache.Tree
	}{
		"file":              {copyOp, []cache.Tree{base, files}},
		"exec, two outputs": {both, []cache.Tree{base, files}},
		"exec, nothing":     {shell("true"), []cache.Tree{base}},
		"from scratch": {&pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
			{Input: -1, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Mode: 0o755, Timestamp: 1e9}}},
		}}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			want, rec, err := run(t, local, c.op, c.inputs...)
			if err != nil {
				t.Fatal(err, rec)
			}
			got, rec, err := run(t, remote, c.op, c.inputs...)
			if err != nil {
				t.Fatal(err, rec)
			}
			if len(got) != len(want) {
				t.Fatalf("%d outputs, want %d", len(got), len(want))
			}
			for i := range want {
				w, err1 := daemon.trees.Content(t.Context(), want[i], cache.Root)
				g, err2 := daemon.trees.Content(t.Context(), got[i], cache.Root)
				if err := errors.Join(err1, err2); err != nil || w != g {
					t.Errorf("output %d has content %s, want %s, %v", i, g, w, err)
				}
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, local, remote := daemon.busybox(t), daemon.worker(t), daemon.newRemote(t, w.addr)
	for _, c := range []struct {
		op   *pb.Op
		code uint32
	}{
		{shell("exit 7"), 7},
		{shell("sleep 9 & kill -9 $!; wait $!; exit $?"), 137},
		{&pb.Op{Inputs: make([]*pb.Input, 1), Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta: &pb.Meta{Args: []string{"/nothing"}, Cwd: "/"}, Mounts: []*pb.Mount{{Dest: "/", Output: 0}},
		}}}, 127},
	} {
		_, _, want := run(t, local, c.op, base)
		_, _, got := run(t, remote, c.op, base)
		id := regexp.MustCompile("container [0-9a-f]+")
		if want == nil || got == nil || id.ReplaceAllString(got.Error(), "") != id.ReplaceAllString(want.Error(), "") {
			t.Errorf("error\n%v\nwant\n%v", got, want)
		}
		var x *gwpb.ExitError
		if !errors.As(got, &x) || x.ExitCode != c.code {
			t.Errorf("%v: exit error %+v, want code %d", got, x, c.code)
		}
	}
	// Other failures are no exit.
	_, _, err := run(t, remote, shell("true", &pb.Mount{Dest: "/bin/sh", MountType: pb.MountType_TMPFS, Input: -1, Output: -1, TmpfsOpt: &pb.TmpfsOpt{}}), base)
	var x *gwpb.ExitError
	if err == nil || errors.As(err, &x) {
		t.Errorf("error %v", err)
	}
}

func TestCancel(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, remote := daemon.busybox(t), daemon.newRemote(t, w.addr)
	ctx, cancel := context.WithCancelCause(t.Context())
	rec, why := newRecord(), errors.New("enough")
	go func() {
		<-rec.wrote
		cancel(why)
	}()
	began := time.Now()
	_, err := remote.Run(ctx, op.Request{Op: shell("echo started; sleep 1000"), Inputs: []cache.Tree{base}, Progress: rec})
	if !errors.Is(err, why) || time.Since(began) > 10*time.Second {
		t.Errorf("error %v after %s", err, time.Since(began))
	}
	// When Run returns the worker has stopped the step, too.
	if n := w.running.Load(); n != 0 {
		t.Errorf("%d steps still run", n)
	}
}

// TestClientGone ends the connection in the middle of a step.
func TestClientGone(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, remote := daemon.busybox(t), daemon.newRemote(t, w.addr)
	rec, done := newRecord(), make(chan error, 1)
	go func() {
		_, err := remote.Run(context.WithoutCancel(t.Context()), op.Request{Op: shell("echo started; sleep 1000"), Inputs: []cache.Tree{base}, Progress: rec})
		done <- err
	}()
	<-rec.wrote
	remote.Close()
	if err := <-done; err == nil {
		t.Error("the step succeeded")
	}
	eventually(t, "the worker stopped the step", func() bool { return w.running.Load() == 0 })
}

func TestWorkerLostAfterOutput(t *testing.T) {
	daemon, w, other := newNode(t), newRemoteNode(t, nil), newRemoteNode(t, nil)
	base := daemon.busybox(t)
	rec, done := newRecord(), make(chan error, 1)
	remote := daemon.newRemote(t, w.addr)
	go func() {
		_, err := remote.Run(context.WithoutCancel(t.Context()), op.Request{Op: shell("echo started; sleep 1000"), Inputs: []cache.Tree{base}, Progress: rec})
		done <- err
	}()
	<-rec.wrote
	w.stop()
	err := <-done
	if err == nil || !strings.Contains(err.Error(), w.addr) || !strings.Contains(err.Error(), "connection broke") || !strings.Contains(err.Error(), "not run again") {
		t.Errorf("error %v", err)
	}
	if n := other.running.Load(); n != 0 {
		t.Error("the step was begun again")
	}
}

// TestWorkerLostBeforeOutput stops the worker that a step was sent to; another
// one runs it.
func TestWorkerLostBeforeOutput(t *testing.T) {
	daemon := newNode(t)
	base := daemon.busybox(t)
	begun := make(chan struct{})
	bad := newRemoteNode(t, stepsFunc(func(ctx context.Context, _ op.Request) ([]cache.Tree, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	good := newRemoteNode(t, nil, func(c *ServerConfig) { c.Slots = 1 })
	// The first is chosen because it holds the input.
	first := daemon.newRemote(t, bad.addr)
	if err := first.peers[0].push(t.Context(), mustStep(t, first, base), "l"); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-begun
		bad.stop()
	}()
	out, rec, err := run(t, daemon.newRemote(t, good.addr, bad.addr), shell("echo ran > /f"), base)
	if err != nil {
		t.Fatal(err, rec)
	}
	if got := daemon.read(t, out[0], "/f"); got != "ran\n" {
		t.Errorf("file holds %q", got)
	}
}

func mustStep(t *testing.T, r *Remote, inputs ...cache.Tree) *step {
	t.Helper()
	s, err := r.newStep(op.Request{Op: shell("true"), Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.lease.Release)
	return s
}

func TestNoWorker(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, addr := daemon.busybox(t), w.addr
	w.stop()
	remote := daemon.newRemote(t, addr, "tcp://127.0.0.1:1")
	_, _, err := run(t, remote, shell("true"), base)
	if !errors.Is(err, errNoWorker) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error %v", err)
	}
	// Merge and diff need none.
	merge := &pb.Op{Inputs: make([]*pb.Input, 2), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}}
	more := daemon.file(t, "", "f", "1")
	out, _, err := run(t, remote, merge, base, more)
	if err != nil || daemon.read(t, out[0], "/f") != "1" {
		t.Error(err)
	}
	diff := &pb.Op{Inputs: make([]*pb.Input, 2), Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: 0}, Upper: &pb.UpperDiffInput{Input: 1}}}}
	if out, _, err = run(t, remote, diff, base, out[0]); err != nil || out[0] != more {
		t.Error(err, out)
	}
	// It comes back, also while a step waits for it.
	go func() {
		time.Sleep(300 * time.Millisecond)
		serve(t, addr, w.Server)
	}()
	if _, rec, err := run(t, remote, shell("true"), base); err != nil {
		t.Error(err, rec)
	}
}

// TestPlaces looks at which worker a step is sent to.
func TestPlaces(t *testing.T) {
	daemon := newNode(t)
	var ran string
	steps := func(name string) Steps {
		return stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) {
			ran = name
			return r.Inputs, nil
		})
	}
	a, b, c := newRemoteNode(t, steps("a")), newRemoteNode(t, steps("b")), newRemoteNode(t, steps("c"), func(c *ServerConfig) { c.Platforms = []string{"linux/riscv64"} })
	big := daemon.file(t, "", "f", strings.Repeat("x", 1<<20))
	small := daemon.file(t, big, "g", "1")
	remote := daemon.newRemote(t, a.addr, b.addr, c.addr)
	for name, held := range map[*remoteNode]cache.Tree{b: big, c: small} {
		p := remote.peers[map[*remoteNode]int{b: 1, c: 2}[name]]
		if err := p.push(t.Context(), mustStep(t, remote, held), "l"); err != nil {
			t.Fatal(err)
		}
	}
	place := func(platform string, inputs ...cache.Tree) string {
		t.Helper()
		o := shell("true")
		o.Platform = &pb.Platform{OS: "linux", Architecture: platform}
		if _, _, err := run(t, remote, o, inputs...); err != nil {
			t.Fatal(err)
		}
		return ran
	}
	if got := place("amd64", small); got != "b" {
		t.Errorf("a step that b has most of runs on %s", got)
	}
	if got := place("riscv64", small); got != "c" {
		t.Errorf("a step for c's platform runs on %s", got)
	}
	// b is full: better to send more than to wait.
	for range cap(b.slots) {
		b.running.Add(1)
	}
	if got := place("amd64", small); got != "a" {
		t.Errorf("a step that a is free for runs on %s", got)
	}
	if got := place("s390x", small); got != "a" && got != "c" { // nobody has the platform, but they have the files
		t.Errorf("a step of a foreign platform runs on %s", got)
	}
}

func TestSlots(t *testing.T) {
	daemon := newNode(t)
	now, most := make(chan int, 1), 0
	now <- 0
	w := newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) {
		n := <-now + 1
		most = max(most, n)
		now <- n
		time.Sleep(20 * time.Millisecond)
		now <- <-now - 1
		return r.Inputs, nil
	}), func(c *ServerConfig) { c.Slots = 2 })
	remote, in := daemon.newRemote(t, w.addr), daemon.file(t, "", "f", "1")
	done := make(chan error)
	for range 8 {
		go func() {
			_, _, err := run(t, remote, shell("true"), in)
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most != 2 {
		t.Errorf("%d steps ran at once, want 2", most)
	}
}

// TestManyLayers sends a chain that no single message of blobs would hold, with
// layers that several steps need at the same time.
func TestManyLayers(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	counted := &countPuts{Server: w.Server}
	addr, _ := serve(t, "", counted)
	at, remote := daemon.busybox(t), daemon.newRemote(t, addr)
	for i := range 60 {
		at = daemon.file(t, at, fmt.Sprintf("f%d", i), strings.Repeat("x", i*1000))
	}
	done := make(chan error)
	for i := range 6 {
		go func() {
			out, rec, err := run(t, remote, shell(fmt.Sprintf("cat /f* | wc -c > /n%d", i)), at)
			if err == nil && !strings.HasPrefix(daemon.read(t, out[0], fmt.Sprintf("/n%d", i)), "1770000") {
				err = fmt.Errorf("wrong number, %s", rec)
			}
			done <- err
		}()
	}
	for range 6 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	// A layer that has just arrived may be offered again, which costs little.
	if n := counted.n.Load(); n < 61 || n > 100 {
		t.Errorf("61 layers were sent in %d calls", n)
	}
}

type countPuts struct {
	*Server
	n atomic.Int32
}

func (c *countPuts) PutLayer(s grpc.ClientStreamingServer[workerv1.PutLayerRequest, workerv1.PutLayerResponse]) error {
	c.n.Add(1)
	return c.Server.PutLayer(s)
}

// TestCopiesStay looks at what comes back of a step that copies.
func TestCopiesStay(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	counted := &countGets{Server: w.Server}
	addr, _ := serve(t, "", counted)
	base, big := daemon.busybox(t), daemon.file(t, "", "big", strings.Repeat("0123456789", 1<<18))
	copied := &pb.Op{Inputs: make([]*pb.Input, 2), Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/", Dest: "/in/", Mode: -1, Timestamp: -1, CreateDestPath: true, DirCopyContents: true}}},
	}}}}
	remote := daemon.newRemote(t, addr)
	out, _, err := run(t, remote, copied, base, big)
	if err != nil {
		t.Fatal(err)
	}
	out, rec, err := run(t, remote, shell("chmod 640 /in/big"), out[0])
	if err != nil {
		t.Fatal(err, rec)
	}
	if got := daemon.read(t, out[0], "/in/big"); len(got) != 10<<18 {
		t.Errorf("file has %d bytes", len(got))
	}
	if n := counted.n.Load(); n > 10_000 {
		t.Errorf("%d bytes came back", n)
	}
}

type countGets struct {
	*Server
	n atomic.Int64
}

type countedGet struct {
	grpc.ServerStreamingServer[workerv1.GetLayerResponse]
	n *atomic.Int64
}

func (c countedGet) Send(m *workerv1.GetLayerResponse) error {
	c.n.Add(int64(len(m.Data)))
	return c.ServerStreamingServer.Send(m)
}

func (c *countGets) GetLayer(r *workerv1.GetLayerRequest, s grpc.ServerStreamingServer[workerv1.GetLayerResponse]) error {
	return c.Server.GetLayer(r, countedGet{s, &c.n})
}
