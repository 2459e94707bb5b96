package attest

import (
	"encoding/json"
	"slices"
	"testing"

	client "github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func refsOf(images []Image) []string {
	var out []string
	for _, i := range images {
		p := ""
		if i.Platform != nil {
			p = " " + i.Platform.Architecture
		}
		out = append(out, i.Ref+p)
	}
	return out
}

// TestCapturesCountWhatWasReadOnTheWay has a frontend that reads a Dockerfile
// and looks up an image before it returns.
func TestCapturesCountWhatWasReadOnTheWay(t *testing.T) {
	build := NewProducers().NewCall(Request{Frontend: "dockerfile.v0"})
	dockerfile := newRef(t, client.Local("dockerfile"))
	unread := newRef(t, client.Local("unread"))
	unread.lazy = true
	scan := newRef(t, client.Local("scanned"))
	result := newRef(t, offline(imageState("docker.io/library/busybox:1@"+digest.FromString("x").String())))

	sub := build.Enter(Request{Frontend: "dockerfile.v0"})
	for _, r := range []*fakeRef{dockerfile, unread, scan, result} {
		if err := sub.Solve(r); err != nil {
			t.Fatal(err)
		}
	}
	sub.Image(Image{Ref: "docker.io/library/busybox:1", Platform: &amd64, Digest: digest.FromString("x")})
	failed := build.Enter(Request{Frontend: "other"})
	failed.Image(Image{Ref: "docker.io/library/never:1"})
	if err := build.Return(sub, result, scan); err != nil {
		t.Fatal(err)
	}
	res := gwclient.NewResult()
	res.SetRef(result)
	res.AddAttestation("linux/amd64", gwclient.Attestation{Ref: scan})
	cs, err := build.Captures(res, []Platform{{ID: "linux/amd64", Platform: amd64}})
	if err != nil {
		t.Fatal(err)
	}
	c := cs[""]
	if got := refsOf(c.images); !slices.Equal(got, []string{"docker.io/library/busybox:1 amd64"}) {
		t.Errorf("images %q: want the one that was asked for, by its tag", got)
	}
	if !slices.Equal(c.locals, []string{"dockerfile"}) {
		t.Errorf("directories %q: want what was read for the result and nothing else", c.locals)
	}
	if c.platform != "linux/amd64" || c.network || c.request.Frontend != "dockerfile.v0" || c.context != "context" {
		t.Errorf("captured %+v", c)
	}
}

// TestCapturesBelongToTheInnermostCall has a frontend that lets another one do
// the work, as a "# syntax=" line asks for.
func TestCapturesBelongToTheInnermostCall(t *testing.T) {
	build := NewProducers().NewCall(Request{Frontend: "dockerfile.v0", Args: map[string]string{"target": "asked"}})
	outer := build.Enter(Request{Frontend: "dockerfile.v0", Args: map[string]string{"target": "asked"}})
	if err := outer.Solve(newRef(t, client.Local("dockerfile"))); err != nil {
		t.Fatal(err)
	}
	ref := newRef(t, imageState("docker.io/library/busybox:latest"))
	call(t, outer, Request{Frontend: "gateway.v0", Args: map[string]string{"source": "example.com/frontend"}}, ref)
	if err := build.Return(outer, ref); err != nil {
		t.Fatal(err)
	}
	c := captureOf(t, build, ref)
	if c.request.Frontend != "gateway.v0" || c.request.Args["source"] != "example.com/frontend" || len(c.locals) > 0 {
		t.Errorf("request %+v, locals %q", c.request, c.locals)
	}
	if root := c.request.Root; root == nil || root.Request.Frontend != "dockerfile.v0" || root.Request.Args["target"] != "asked" {
		t.Errorf("root %+v", root)
	}
}

func TestCapturesByPlatform(t *testing.T) {
	arm64 := ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	build := NewProducers().NewCall(Request{Frontend: "dockerfile.v0"})
	sub := build.Enter(Request{Frontend: "dockerfile.v0"})
	res := gwclient.NewResult()
	var refs []Ref
	all := []Platform{{"linux/amd64", amd64}, {"linux/arm64", arm64}}
	for _, p := range all {
		r := newRef(t, client.Image("docker.io/library/busybox:latest", client.Platform(p.Platform)))
		if err := sub.Solve(r); err != nil {
			t.Fatal(err)
		}
		sub.Image(Image{Ref: "docker.io/library/busybox:latest", Platform: &p.Platform, Digest: digest.FromString(p.ID)})
		res.AddRef(p.ID, r)
		refs = append(refs, r)
	}
	// The frontend's own image is for one platform only and belongs to both.
	sub.Image(Image{Ref: "example.com/frontend:1", Platform: &amd64})
	if err := build.Return(sub, refs...); err != nil {
		t.Fatal(err)
	}
	res.AddRef("empty", nil)
	cs, err := build.Captures(res, all)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]string{
		"linux/amd64": {"docker.io/library/busybox:latest amd64", "example.com/frontend:1 amd64"},
		"linux/arm64": {"docker.io/library/busybox:latest arm64", "example.com/frontend:1 amd64"},
	} {
		if got := refsOf(cs[id].images); !slices.Equal(got, want) || cs[id].platform != id {
			t.Errorf("%s: images %q for %s, want %q", id, got, cs[id].platform, want)
		}
	}
	if len(cs) != 2 {
		t.Errorf("%d captures", len(cs))
	}
}

func TestCapturesWithoutFiles(t *testing.T) {
	build := NewProducers().NewCall(Request{Frontend: "dockerfile.v0"})
	cs, err := build.Captures(gwclient.NewResult(), nil)
	if err != nil || len(cs) != 0 {
		t.Errorf("%v %v", cs, err)
	}
	res := gwclient.NewResult()
	res.SetRef(newRef(t, client.Local("foreign")))
	if _, err := build.Captures(res, nil); err == nil {
		t.Error("a reference of another build is told about")
	}
}

// TestDefinitionOfTheClient has no frontend at all.
func TestDefinitionOfTheClient(t *testing.T) {
	build := NewProducers().NewCall(Request{})
	ref := newRef(t, imageState("docker.io/library/busybox:latest"))
	if err := build.Solve(ref); err != nil {
		t.Fatal(err)
	}
	c := captureOf(t, build, ref)
	if c.request.Frontend != "" || c.request.Root != nil || c.context != "" || len(c.images) != 1 {
		t.Errorf("captured %+v", c)
	}
}

func TestProducers(t *testing.T) {
	ps := NewProducers()
	base := imageState("docker.io/library/busybox:latest")
	producer := func(target string) (*Call, *fakeRef) {
		build := ps.NewCall(Request{Args: map[string]string{"asked": "by " + target}})
		ref := newRef(t, base)
		call(t, build, Request{Frontend: "dockerfile.v0", Args: map[string]string{"target": target, "build-arg:A": "b"}}, ref)
		return build, ref
	}
	consumer := func(in *pb.Definition) Parameters {
		build := ps.NewCall(Request{})
		defer build.Release()
		ref := newRef(t, online(base))
		call(t, build, Request{Frontend: "dockerfile.v0", Inputs: map[string]*pb.Definition{"base": in}}, ref)
		return captureOf(t, build, ref).request
	}
	one, ref := producer("base")
	got := consumer(ref.def).Inputs["base"]
	if got == nil || got.Request.Frontend != "dockerfile.v0" || got.Request.Args["target"] != "base" || got.Request.Root != nil {
		t.Fatalf("input %+v", got)
	}
	if less, left := consumer(ref.def).minimal(); !left || less.Inputs["base"].Request.Args["build-arg:A"] != "" || got.Request.Args["build-arg:A"] != "b" {
		t.Errorf("minimal %+v, left out %v", less.Inputs["base"].Request, left)
	}
	if in := consumer(newRef(t, client.Scratch().File(client.Mkdir("/x", 0o755))).def).Inputs; in != nil {
		t.Errorf("a definition of the client is told to come from %+v", in)
	}

	same, _ := producer("base")
	if got := consumer(ref.def).Inputs["base"]; got == nil {
		t.Error("two equal calls are none")
	}
	other, _ := producer("other")
	if got := consumer(ref.def).Inputs["base"]; got != nil {
		t.Errorf("of two calls that differ one is told: %+v", got.Request)
	}
	other.Release()
	if got := consumer(ref.def).Inputs["base"]; got == nil {
		t.Error("a build that is over hides another")
	}
	one.Release()
	same.Release()
	if got := consumer(ref.def).Inputs["base"]; got != nil || len(ps.by) != 0 {
		t.Errorf("builds that are over are told: %+v, %d", got, len(ps.by))
	}
}

// TestInputsNest hands the result of a call to a second and that of the second
// to a third.
func TestInputsNest(t *testing.T) {
	ps := NewProducers()
	build := ps.NewCall(Request{Args: map[string]string{"asked": "once"}})
	defer build.Release()
	seed := newRef(t, imageState("docker.io/library/seed:1"))
	base := newRef(t, online(imageState("docker.io/library/base:1")))
	last := newRef(t, online(imageState("docker.io/library/last:1")))
	call(t, build, Request{Frontend: "f", Args: map[string]string{"target": "seed"}}, seed)
	call(t, build, Request{Frontend: "f", Args: map[string]string{"target": "base"}, Inputs: map[string]*pb.Definition{"inner": seed.def}}, base)
	call(t, build, Request{Frontend: "f", Inputs: map[string]*pb.Definition{"outer": base.def}}, last)
	r := captureOf(t, build, last).request
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"frontend":"f","inputs":{"outer":{"configSource":{},"request":{"frontend":"f","args":{"target":"base"},` +
		`"inputs":{"inner":{"configSource":{},"request":{"frontend":"f","args":{"target":"seed"}}}}}}},` +
		`"root":{"configSource":{},"request":{"args":{"asked":"once"}}}}`
	if string(b) != want {
		t.Errorf("request %s\nwant    %s", b, want)
	}
}
