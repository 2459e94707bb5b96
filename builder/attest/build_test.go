package attest

import (
	"context"
	"fmt"
	"testing"

	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/solver/progress"
	"github.com/buildd/buildd/worker/source"
	client "github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

const commitID = "0123456789012345678901234567890123456789"

// fakeRef is a reference that was made, or not.
type fakeRef struct {
	gwclient.Reference
	def  *pb.Definition
	edge solver.Edge
	lazy bool
}

func (r *fakeRef) Definition() *pb.Definition  { return r.def }
func (r *fakeRef) Solved() (solver.Edge, bool) { return r.edge, !r.lazy }

// pin is what the fake sources find.
type pin source.Pin

func (p pin) PinKey() string     { return p.Key }
func (p pin) Source() source.Pin { return source.Pin(p) }

type pinner struct{}

func (pinner) Pin(_ context.Context, _ *solver.Vertex, s *pb.SourceOp, p *pb.Platform) (llb.Pin, error) {
	out := source.Pin{Request: source.Request{Identifier: s.Identifier, Attrs: s.Attrs, Platform: p}, Key: s.Identifier}
	switch out.Request.Scheme() {
	case "git":
		out.Resolved = commitID
	case "docker-image":
		out.Resolved = out.Request.Ref() + "@" + digest.FromString(s.Identifier).String()
	default:
		out.Resolved = digest.FromString(s.Identifier).String()
	}
	return pin(out), nil
}

type noCache struct{ solver.Cache }

// newRef makes a reference of a state, with its sources pinned.
func newRef(t testing.TB, st client.State) *fakeRef {
	t.Helper()
	def, err := st.Marshal(t.Context(), client.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	return refOf(t, def.ToPB())
}

func refOf(t testing.TB, def *pb.Definition) *fakeRef {
	t.Helper()
	b := solver.New(solver.Config{Cache: noCache{}}).NewBuild(solver.BuildConfig{ID: "test", Events: &progress.Log{}})
	e, err := llb.Load(def, llb.Options{Build: b, Pinner: pinner{}})
	if err != nil {
		t.Fatal(err)
	}
	var walk func(v *solver.Vertex)
	walk = func(v *solver.Vertex) {
		if _, err := v.Op.Digest(t.Context(), b, v); err != nil {
			t.Fatal(err)
		}
		for _, in := range v.Inputs {
			walk(in.Vertex)
		}
	}
	walk(e.Vertex)
	return &fakeRef{def: def, edge: e}
}

// everything reads from every kind of source and uses what a step can use.
func everything(t testing.TB) *fakeRef {
	image := client.Image("docker.io/library/busybox:latest", client.LinuxAmd64)
	repo := client.Git("https://user:hunter2@example.com/repo.git", "main:dir", client.AuthTokenSecret("TOKEN"))
	file := client.HTTP("https://user:hunter2@example.com/file", client.Filename("file"))
	local := client.Local("context", client.SessionID("of-this-build"), client.SharedKeyHint("context"))
	run := image.Run(client.Shlex("make"), client.AddSecret("/run/secret", client.SecretID("key")), client.AddSSHSocket(),
		client.AddSecret("/run/more", client.SecretID("more"), client.SecretOptional),
		client.WithProxy(client.ProxyEnv{HTTPProxy: "http://user:hunter2@proxy.example"}))
	for i, st := range []client.State{repo, file, local} {
		run.AddMount(fmt.Sprintf("/src%d", i), st, client.Readonly)
	}
	src := client.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte("FROM busybox\nRUN make\n"))
	at := []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}
	return newRef(t, run.Root().File(client.Mkdir("/done", 0o755), src.Location(at)))
}

// call records a frontend that was called with req and returned refs.
func call(t testing.TB, build *Call, req Request, refs ...*fakeRef) *Call {
	t.Helper()
	sub := build.Enter(req)
	var rs []Ref
	for _, r := range refs {
		if err := sub.Solve(r); err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	if err := build.Return(sub, rs...); err != nil {
		t.Fatal(err)
	}
	return sub
}

// captureOf returns what is known of the single result of a build.
func captureOf(t testing.TB, build *Call, r *fakeRef) *Capture {
	t.Helper()
	res := gwclient.NewResult()
	res.SetRef(r)
	cs, err := build.Captures(res, []Platform{{ID: "linux/amd64", Platform: amd64}})
	if err != nil {
		t.Fatal(err)
	}
	if cs[""] == nil {
		t.Fatal("nothing is known of the result")
	}
	return cs[""]
}

func imageState(ref string) client.State { return client.Image(ref, client.LinuxAmd64) }

func online(st client.State) client.State { return st.Run(client.Shlex("true")).Root() }

func offline(st client.State) client.State {
	return st.Network(pb.NetMode_NONE).Run(client.Shlex("true")).Root()
}
