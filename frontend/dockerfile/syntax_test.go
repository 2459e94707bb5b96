package dockerfile

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
)

func TestBuiltin(t *testing.T) {
	for image, want := range map[string]bool{
		"docker/dockerfile":                                   true,
		"docker/dockerfile:1.7-labs":                          true,
		"docker.io/docker/dockerfile:1":                       true,
		"docker/dockerfile-upstream:master":                   true,
		"mirror.example.com:5000/hub/docker/dockerfile:1":     true,
		"docker/dockerfile@sha256:" + strings.Repeat("a", 64): true,
		"dockerfile.v0":                                       true,
		"dockerfile":                                          false,
		"docker/dockerfiles":                                  false,
		"notdocker/dockerfile":                                false,
		"example.com/my/frontend":                             false,
		"docker/dockerfile/other":                             false,
		"Not A Reference":                                     false,
		"":                                                    false,
	} {
		if got := Builtin(image); got != want {
			t.Errorf("Builtin(%q) = %v", image, got)
		}
	}
}

func TestForward(t *testing.T) {
	for name, c := range map[string]struct {
		dockerfile string
		opts       map[string]string
		source     string // "": built here
		cmdline    string
	}{
		"none":                 {dockerfile: "FROM scratch"},
		"ours":                 {dockerfile: "# syntax=docker/dockerfile:1\nFROM scratch"},
		"other":                {dockerfile: "#syntax = me/front:1 arg\n", source: "me/front:1", cmdline: "me/front:1 arg"},
		"other comment sign":   {dockerfile: "// syntax=me/front\n", source: "me/front", cmdline: "me/front"},
		"other by argument":    {dockerfile: "FROM scratch", opts: map[string]string{"build-arg:BUILDKIT_SYNTAX": " me/front x y"}, source: "me/front", cmdline: "me/front x y"},
		"ours by argument":     {dockerfile: "# syntax=me/front\n", opts: map[string]string{"build-arg:BUILDKIT_SYNTAX": "docker/dockerfile:1.4"}},
		"internal by argument": {dockerfile: "# syntax=me/front\n", opts: map[string]string{"build-arg:BUILDKIT_SYNTAX": "dockerfile.v0"}},
		"empty argument":       {dockerfile: "# syntax=me/front\n", opts: map[string]string{"build-arg:BUILDKIT_SYNTAX": ""}, source: "me/front", cmdline: "me/front"},
		"chosen already":       {dockerfile: "# syntax=me/front\n", opts: map[string]string{"cmdline": "me/front"}},
		"unknown cap": {
			dockerfile: "# syntax=me/front\n", opts: map[string]string{"frontend.caps": "moby.buildkit.frontend.new+forward"},
			source: "me/front", cmdline: "me/front",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got *gwclient.SolveRequest
			client := &fakeClient{
				files: local(map[string]string{"Dockerfile": c.dockerfile}), opts: c.opts,
				inputs:  map[string]llb.State{"in": llb.Scratch().File(llb.Mkdir("/x", 0o755))},
				gateway: func(r gwclient.SolveRequest) error { got = &r; return nil },
			}
			b := mustOpen(t, client)
			s := b.otherSyntax()
			if s == nil {
				if c.source != "" {
					t.Fatal("built here")
				}
				return
			}
			if _, err := b.forward(context.Background(), s); err != nil {
				t.Fatal(err)
			}
			if got == nil || got.Frontend != "gateway.v0" || got.FrontendOpt["source"] != c.source || got.FrontendOpt["cmdline"] != c.cmdline {
				t.Fatalf("forwarded as %+v, want %s, %s", got, c.source, c.cmdline)
			}
			if len(got.FrontendInputs["in"].GetDef()) == 0 {
				t.Error("input is lost")
			}
			if _, ok := c.opts["source"]; ok {
				t.Error("the request's options were changed")
			}
		})
	}
}

func TestForwardErrors(t *testing.T) {
	broken := errors.New("broken")
	client := &fakeClient{
		files:   local(map[string]string{"Dockerfile": "\n# syntax=me/front\n"}),
		gateway: func(gwclient.SolveRequest) error { return broken },
	}
	b := mustOpen(t, client)
	b.definition.Data = []byte("# syntax=me/front\n")
	_, err := b.forward(context.Background(), b.otherSyntax())
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), `syntax directive "me/front"`) {
		t.Errorf("error %v", err)
	}
	b.Opts = map[string]string{"build-arg:BUILDKIT_SYNTAX": "me/front"}
	_, err = b.forward(context.Background(), b.otherSyntax())
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "build-arg:BUILDKIT_SYNTAX") {
		t.Errorf("error %v", err)
	}
}

func TestMissingCap(t *testing.T) {
	for list, want := range map[string]struct {
		missing string
		forward bool
	}{
		"":                              {},
		"moby.buildkit.frontend.inputs": {},
		"moby.buildkit.frontend.inputs+forward,moby.buildkit.frontend.contexts": {},
		"moby.buildkit.frontend.new":                                         {missing: "moby.buildkit.frontend.new"},
		"moby.buildkit.frontend.new+forward":                                 {missing: "moby.buildkit.frontend.new", forward: true},
		"moby.buildkit.frontend.new+forward,moby.buildkit.frontend.other":    {missing: "moby.buildkit.frontend.other"},
		"moby.buildkit.frontend.new+forward,moby.buildkit.frontend.contexts": {missing: "moby.buildkit.frontend.new", forward: true},
	} {
		forward, err := missingCap(list)
		var capErr *errdefs.UnsupportedFrontendCapError
		switch {
		case forward != want.forward, (err == nil) != (want.missing == ""):
			t.Errorf("%q: %v, %v", list, forward, err)
		case err != nil && (!errors.As(err, &capErr) || capErr.GetName() != want.missing || grpcerrors.Code(err) != codes.Unimplemented):
			t.Errorf("%q: error %v of code %v", list, err, grpcerrors.Code(err))
		}
	}
}
