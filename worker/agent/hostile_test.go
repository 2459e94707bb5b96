package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/buildd/buildd/cache"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

func newLayerID() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// evil is a worker that answers what a test wants.
type evil struct {
	workerv1.UnimplementedWorkerServer
	missing *workerv1.HoldLayersResponse
	events  []*workerv1.RunEvent
	layer   []byte // what GetLayer sends
}

func (e *evil) Info(context.Context, *workerv1.InfoRequest) (*workerv1.InfoResponse, error) {
	return &workerv1.InfoResponse{Api: api}, nil
}

func (e *evil) HoldLayers(_ context.Context, r *workerv1.HoldLayersRequest) (*workerv1.HoldLayersResponse, error) {
	if r.Lease == "" || e.missing == nil {
		return &workerv1.HoldLayersResponse{}, nil
	}
	return e.missing, nil
}

func (e *evil) PutLayer(s grpc.ClientStreamingServer[workerv1.PutLayerRequest, workerv1.PutLayerResponse]) error {
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return s.SendAndClose(&workerv1.PutLayerResponse{})
		} else if err != nil {
			return err
		}
	}
}

func (e *evil) GetLayer(_ *workerv1.GetLayerRequest, s grpc.ServerStreamingServer[workerv1.GetLayerResponse]) error {
	return s.Send(&workerv1.GetLayerResponse{Data: e.layer})
}

func (e *evil) Run(s grpc.BidiStreamingServer[workerv1.RunRequest, workerv1.RunEvent]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	for _, ev := range e.events {
		if err := s.Send(ev); err != nil {
			return err
		}
	}
	return nil
}

func result(trees ...*workerv1.Tree) []*workerv1.RunEvent {
	return []*workerv1.RunEvent{{Message: &workerv1.RunEvent_Result{Result: &workerv1.Result{Outputs: trees}}}}
}

func chain(ls ...*workerv1.Layer) *workerv1.Tree { return &workerv1.Tree{Layers: ls} }

func TestHostileWorker(t *testing.T) {
	daemon := newNode(t)
	in, secret := daemon.file(t, "", "f", "1"), daemon.file(t, "", "secret", "of another build")
	idOf := func(tr cache.Tree) *workerv1.Layer {
		l, err := daemon.trees.Layers(tr)
		if err != nil {
			t.Fatal(err)
		}
		return &workerv1.Layer{Id: string(l[0].ID), Content: l[0].Content[:]}
	}
	var good bytes.Buffer
	if err := daemon.trees.Export(t.Context(), cache.LayerID(idOf(secret).Id), &good); err != nil {
		t.Fatal(err)
	}
	fresh := &workerv1.Layer{Id: newLayerID(), Content: idOf(secret).Content}
	image := &workerv1.Layer{Id: digest.FromString("x").String(), Image: &workerv1.ImageLayer{
		DiffId: digest.FromString("x").String(), Blob: &workerv1.Blob{Digest: digest.FromString("y").String(), MediaType: "application/vnd.oci.image.layer.v1.tar"},
	}}
	log := &workerv1.RunEvent{Message: &workerv1.RunEvent_Log{Log: &workerv1.Log{Stream: 3, Data: []byte("x")}}}
	for says, e := range map[string]*evil{
		"0 outputs, the op has 1":           {events: result()},
		"2 outputs, the op has 1":           {events: result(chain(), chain())},
		"is in no input":                    {events: result(chain(image))},
		"is another step's":                 {events: result(chain(idOf(in), idOf(secret)))},
		"content of 3 bytes":                {events: result(chain(&workerv1.Layer{Id: newLayerID(), Content: []byte("abc")}))},
		"want an ID":                        {events: result(chain(&workerv1.Layer{Content: fresh.Content}))},
		"32 hexadecimal digits":             {events: result(chain(&workerv1.Layer{Id: "../../../etc", Content: fresh.Content})), layer: good.Bytes()},
		"has two contents":                  {events: result(chain(fresh, &workerv1.Layer{Id: fresh.Id, Content: make([]byte, 32)}))},
		"not a valid layer index":           {events: result(chain(fresh)), layer: bytes.Repeat([]byte("junk"), 1000)},
		"announced was 0000":                {events: result(chain(&workerv1.Layer{Id: newLayerID(), Content: make([]byte, 32)})), layer: good.Bytes()},
		"unexpected EOF":                    {events: result(chain(fresh)), layer: good.Bytes()[:good.Len()-3]},
		"more than the index lists":         {events: result(chain(&workerv1.Layer{Id: newLayerID(), Content: fresh.Content})), layer: append(bytes.Clone(good.Bytes()), 1)},
		"log of stream 3":                   {events: []*workerv1.RunEvent{log}},
		"not known":                         {events: []*workerv1.RunEvent{{}}},
		"without a result":                  {},
		"nothing to do with":                {missing: &workerv1.HoldLayersResponse{Layers: []string{idOf(secret).Id}}},
		"does not keep what it is sent":     {missing: &workerv1.HoldLayersResponse{Layers: []string{idOf(in).Id}}},
		"status with a name of 10000 bytes": {events: []*workerv1.RunEvent{{Message: &workerv1.RunEvent_Status{Status: &workerv1.Status{Id: strings.Repeat("x", 10000)}}}}},
	} {
		before, _ := daemon.trees.All()
		addr, stop := serve(t, "", e)
		_, _, err := run(t, daemon.newRemote(t, addr), shell("true"), in)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), addr) {
			t.Errorf("error %v, want one of %s that says %q", err, addr, says)
		}
		stop()
		if after, _ := daemon.trees.All(); len(after) != len(before) {
			t.Errorf("%s: %d trees, there were %d", says, len(after), len(before))
		}
	}
	if got := daemon.read(t, secret, "/secret"); got != "of another build" {
		t.Errorf("a layer was changed: %q", got)
	}
}

func TestOtherVersion(t *testing.T) {
	daemon := newNode(t)
	addr, _ := serve(t, "", &versioned{})
	_, _, err := run(t, daemon.newRemote(t, addr), shell("true"), daemon.file(t, "", "f", "1"))
	if err == nil || !strings.Contains(err.Error(), "speaks version 99") {
		t.Errorf("error %v", err)
	}
}

type versioned struct{ evil }

func (versioned) Info(context.Context, *workerv1.InfoRequest) (*workerv1.InfoResponse, error) {
	return &workerv1.InfoResponse{Api: 99}, nil
}

func put(t *testing.T, c workerv1.WorkerClient, msgs ...*workerv1.PutLayerRequest) error {
	t.Helper()
	s, err := c.PutLayer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		if err := s.Send(m); err != nil {
			break // CloseAndRecv tells why
		}
	}
	_, err = s.CloseAndRecv()
	return err
}

func head(lease string, l *workerv1.Layer) *workerv1.PutLayerRequest {
	return &workerv1.PutLayerRequest{Message: &workerv1.PutLayerRequest_Header{Header: &workerv1.LayerHeader{Lease: lease, Layer: l}}}
}

func data(b []byte) *workerv1.PutLayerRequest {
	return &workerv1.PutLayerRequest{Message: &workerv1.PutLayerRequest_Data{Data: b}}
}

func wantCode(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v, want %s and %q", err, code, says)
	}
}

func TestHostileClient(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	c := dial(t, w.addr)
	layers, err := daemon.trees.Layers(daemon.file(t, "", "f", "1"))
	if err != nil {
		t.Fatal(err)
	}
	var good bytes.Buffer
	if err := daemon.trees.Export(t.Context(), layers[0].ID, &good); err != nil {
		t.Fatal(err)
	}
	l := &workerv1.Layer{Id: string(layers[0].ID), Content: layers[0].Content[:]}
	wantCode(t, put(t, c, data(good.Bytes())), codes.InvalidArgument, "no header")
	wantCode(t, put(t, c, head("", l), data(good.Bytes())), codes.InvalidArgument, "lease")
	wantCode(t, put(t, c, head(strings.Repeat("l", 1000), l)), codes.InvalidArgument, "lease")
	wantCode(t, put(t, c, head("l", nil)), codes.InvalidArgument, "want an ID")
	wantCode(t, put(t, c, head("l", &workerv1.Layer{Id: "../x", Content: l.Content}), data(good.Bytes())), codes.Unknown, "32 hexadecimal digits")
	wantCode(t, put(t, c, head("l", &workerv1.Layer{Id: l.Id, Content: make([]byte, 32)}), data(good.Bytes())), codes.Unknown, "announced was 0000")
	wantCode(t, put(t, c, head("l", l), data(good.Bytes()[:good.Len()-1])), codes.Unknown, "unexpected EOF")
	if err := put(t, c, head("l", l), data(good.Bytes())); err != nil {
		t.Fatal(err)
	}
	// Once it is there nobody can change it.
	wantCode(t, put(t, c, head("l", &workerv1.Layer{Id: l.Id, Content: make([]byte, 32)}), data(good.Bytes())), codes.Unknown, "another layer of that ID")
	if err := put(t, c, head("l", l)); err != nil {
		t.Errorf("a layer that is there already: %v", err)
	}

	hold := func(ls ...*workerv1.Layer) error {
		_, err := c.HoldLayers(t.Context(), &workerv1.HoldLayersRequest{Lease: "l", Layers: ls})
		return err
	}
	diff, blob := digest.FromString("diff"), &workerv1.Blob{Digest: digest.FromString("blob").String(), Size: 3, MediaType: "application/vnd.oci.image.layer.v1.tar"}
	image := func(id, parent string, b *workerv1.Blob) *workerv1.Layer {
		return &workerv1.Layer{Id: id, Image: &workerv1.ImageLayer{DiffId: diff.String(), Parent: parent, Blob: b}}
	}
	wantCode(t, hold(image(digest.FromString("another").String(), "", blob)), codes.Unknown, "its ID is "+diff.String())
	wantCode(t, hold(image(diff.String(), "", nil)), codes.InvalidArgument, "blob")
	wantCode(t, hold(image(diff.String(), "", &workerv1.Blob{Digest: blob.Digest, Size: -1})), codes.InvalidArgument, "size -1")
	wantCode(t, hold(image(diff.String(), "", &workerv1.Blob{Digest: blob.Digest, MediaType: "text/html"})), codes.Unknown, "text/html")
	wantCode(t, hold(image(diff.String(), "nonsense", blob)), codes.Unknown, "its ID is")
	wantCode(t, hold(&workerv1.Layer{Id: l.Id, Content: make([]byte, 32)}), codes.Unknown, "another layer of that ID")

	putBlob := func(b *workerv1.Blob, content string) error {
		s, err := c.PutBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&workerv1.PutBlobRequest{Message: &workerv1.PutBlobRequest_Header{Header: b}})
		_ = s.Send(&workerv1.PutBlobRequest{Message: &workerv1.PutBlobRequest_Data{Data: []byte(content)}})
		_, err = s.CloseAndRecv()
		return err
	}
	wantCode(t, putBlob(nil, "blob"), codes.InvalidArgument, "blob")
	wantCode(t, putBlob(blob, "blub"), codes.Unknown, "more than the 3 bytes")
	wantCode(t, putBlob(blob, "blu"), codes.Unknown, "content has digest")
	wantCode(t, putBlob(blob, "b"), codes.Unknown, "its descriptor says 3")
	wantCode(t, putBlob(&workerv1.Blob{Digest: blob.Digest, Size: 1 << 60}, "b"), codes.ResourceExhausted, "are free")
	if w.blobs.Has(t.Context(), digest.Digest(blob.Digest)) {
		t.Error("a wrong blob is there")
	}
}

func TestHostileClientRuns(t *testing.T) {
	w := newRemoteNode(t, nil)
	c := dial(t, w.addr)
	o, err := proto.Marshal(shell("true"))
	if err != nil {
		t.Fatal(err)
	}
	start := func(m *workerv1.RunRequest) error {
		s, err := c.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(m)
		_, err = s.Recv()
		return err
	}
	of := func(s *workerv1.Start) *workerv1.RunRequest {
		return &workerv1.RunRequest{Message: &workerv1.RunRequest_Start{Start: s}}
	}
	source, _ := proto.Marshal(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://x"}}})
	wantCode(t, start(&workerv1.RunRequest{}), codes.InvalidArgument, "no start")
	wantCode(t, start(of(&workerv1.Start{Op: o})), codes.InvalidArgument, "lease")
	wantCode(t, start(of(&workerv1.Start{Op: []byte("junk"), Lease: "l"})), codes.InvalidArgument, "read the step")
	wantCode(t, start(of(&workerv1.Start{Lease: "l"})), codes.InvalidArgument, "op")
	wantCode(t, start(of(&workerv1.Start{Op: source, Lease: "l"})), codes.InvalidArgument, "Source")
	wantCode(t, start(of(&workerv1.Start{Op: o, Lease: "l", Inputs: []*workerv1.Tree{chain(&workerv1.Layer{Id: newLayerID()})}})), codes.FailedPrecondition, "not in the cache")
	if n := w.running.Load(); n != 0 {
		t.Errorf("%d steps run", n)
	}
	// Too few inputs is the step's own failure.
	s, err := c.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Send(of(&workerv1.Start{Op: o, Lease: "l"}))
	if e, err := s.Recv(); err != nil || !strings.Contains(e.GetFailure().GetMessage(), "1 inputs, but 0 trees") {
		t.Error(e, err)
	}
}

func TestNotFound(t *testing.T) {
	w := newRemoteNode(t, nil)
	c := dial(t, w.addr)
	l, err := c.GetLayer(t.Context(), &workerv1.GetLayerRequest{Id: newLayerID()})
	if err == nil {
		_, err = l.Recv()
	}
	wantCode(t, err, codes.NotFound, "not in the cache")
	for d, code := range map[string]codes.Code{digest.FromString("x").String(): codes.NotFound, "../x": codes.InvalidArgument} {
		b, err := c.GetBlob(t.Context(), &workerv1.GetBlobRequest{Digest: d})
		if err == nil {
			_, err = b.Recv()
		}
		wantCode(t, err, code, d)
	}
}

// TestNotAllowed asks a worker for what its owner does not give; another one does.
func TestNotAllowed(t *testing.T) {
	daemon := newNode(t)
	same := stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) { return r.Inputs, nil })
	strict := newRemoteNode(t, same, func(c *ServerConfig) { c.Allow = func(*pb.Op) error { return errors.New("not here") } })
	in := daemon.file(t, "", "f", "1")
	_, _, err := run(t, daemon.newRemote(t, strict.addr), shell("true"), in)
	if err == nil || !strings.Contains(err.Error(), "not here") || !errors.Is(err, errNoOther) {
		t.Errorf("error %v", err)
	}
	if _, _, err := run(t, daemon.newRemote(t, strict.addr, newRemoteNode(t, same).addr), shell("true"), in); err != nil {
		t.Error(err)
	}
}

func TestDevicesStay(t *testing.T) {
	daemon := newNode(t)
	w := newRemoteNode(t, stepsFunc(func(_ context.Context, r op.Request) ([]cache.Tree, error) {
		if n := len(r.Op.GetExec().CdiDevices); n != 0 {
			t.Errorf("%d devices", n)
		}
		return r.Inputs, nil
	}))
	in, o := daemon.file(t, "", "f", "1"), shell("true")
	o.GetExec().CdiDevices = []*pb.CDIDevice{{Name: "vendor.com/class=x", Optional: true}}
	if _, _, err := run(t, daemon.newRemote(t, w.addr), o, in); err != nil {
		t.Error(err)
	}
	o.GetExec().CdiDevices[0].Optional = false
	if _, _, err := run(t, daemon.newRemote(t, w.addr), o, in); err == nil || !strings.Contains(err.Error(), "vendor.com/class=x") {
		t.Errorf("error %v", err)
	}
}
