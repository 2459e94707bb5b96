package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var update = flag.Bool("update", false, "write what was seen into testdata/*.json")

// request is a call of the Dockerfile frontend with everything that could be
// secret.
func request() Request {
	return Request{Frontend: "dockerfile.v0", Args: map[string]string{
		"context":           "https://user:hunter2@example.com/repo.git#main:dir",
		"filename":          "build/Dockerfile",
		"build-arg:VERSION": "1.2",
		"label:lbl":         "abc",
		"target":            "final",
		"vcs:source":        "https://user:hunter2@example.com/source.git",
		"vcs:revision":      "abcdef",
		"vcs:empty":         "",
		"context:more":      "https://user:hunter2@example.com/more.git",
		"platform":          "linux/amd64",
		"cgroup-parent":     "/mine",
		"attest:provenance": "mode=max",
	}}
}

// told is a build that began and ended at known times.
func told() *Build {
	b := &Build{
		ID: "once", Env: map[string]any{"foo": "bar", "numbers": []int{1, 2}}, DockerfileVersion: "1.2.3", CompatibilityVersion: 30,
		Layers: func(_ context.Context, e solver.Edge) []ocispecs.Descriptor {
			if e.Vertex.Name != "docker-image://docker.io/library/busybox:latest" {
				return nil
			}
			return []ocispecs.Descriptor{{
				MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromString("layer"), Size: 5, Annotations: map[string]string{"internal": "yes"},
			}}
		},
	}
	b.begun = &sample{Timestamp: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)}
	b.once.Do(func() { b.ended = &sample{Timestamp: b.begun.Timestamp.Add(time.Minute)} })
	return b
}

func TestPredicates(t *testing.T) {
	ref := everything(t)
	build := NewProducers().NewCall(request())
	call(t, build, request(), ref)
	c := captureOf(t, build, ref)
	for name, o := range map[string]Provenance{
		"v1-max":  {Version: V1, Builder: "https://example.com/builder", Reproducible: true},
		"v1-min":  {Version: V1, Minimal: true},
		"v02-max": {Version: V02, Builder: "https://example.com/builder", Usage: true},
		"v02-min": {Version: V02, Minimal: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := told().Predicate(t.Context(), c, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{`"builderPlatform": "`, `"platform": "`} {
				got = bytes.ReplaceAll(got, []byte(key+builderPlatform()), []byte(key+"HOST"))
			}
			if strings.Contains(string(got), "hunter2") {
				t.Error("a password is told")
			}
			golden(t, name+".json", append(got, '\n'))
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs: run with -update and look at the difference\n%s", path, got)
	}
}

func TestHermetic(t *testing.T) {
	image := "docker.io/library/busybox:latest"
	for name, c := range map[string]struct {
		def                            *fakeRef
		hermetic, complete, completeOK bool
	}{
		"image only":          {def: newRef(t, imageState(image)), hermetic: true, complete: true, completeOK: true},
		"step offline":        {def: newRef(t, offline(imageState(image))), hermetic: true, complete: true, completeOK: true},
		"step with network":   {def: newRef(t, online(imageState(image))), complete: true, completeOK: true},
		"directory of client": {def: everything(t)},
	} {
		t.Run(name, func(t *testing.T) {
			build := NewProducers().NewCall(request())
			call(t, build, request(), c.def)
			cp := captureOf(t, build, c.def)
			var p predicate1
			data, err := told().Predicate(t.Context(), cp, Provenance{Version: V1})
			if err == nil {
				err = json.Unmarshal(data, &p)
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := p.RunDetails.Metadata; m.Hermetic != c.hermetic || m.Completeness.ResolvedDependencies != c.complete {
				t.Errorf("hermetic %v, complete %v", m.Hermetic, m.Completeness.ResolvedDependencies)
			}
			err = Provenance{Complete: true}.Check(cp)
			if (err == nil) != c.completeOK {
				t.Errorf("complete materials: %v", err)
			}
			if typed, ok := errors.AsType[*errdefs.ProvenanceMaterialsIncompleteError](err); err != nil &&
				(!ok || len(typed.Incomplete) != 1 || typed.Incomplete[0].Name != "context" || !strings.Contains(err.Error(), "- context\n")) {
				t.Errorf("complete materials: %v", err)
			}
			if err := (Provenance{}).Check(cp); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBrokenDefinitions hands in what a client may send as the definition that a
// file was read with, which nobody has checked.
func TestBrokenDefinitions(t *testing.T) {
	ref := newRef(t, imageState("docker.io/library/busybox:latest"))
	dangling := ref.def.CloneVT()
	dangling.Def = dangling.Def[len(dangling.Def)-1:]
	for name, src := range map[string]*pb.Source{
		"garbage":   {Infos: []*pb.SourceInfo{{Definition: &pb.Definition{Def: [][]byte{{0xff}}}}}},
		"dangling":  {Infos: []*pb.SourceInfo{{Definition: dangling}}},
		"no info":   {Infos: []*pb.SourceInfo{nil}, Locations: map[string]*pb.Locations{"x": nil}},
		"not there": {Infos: []*pb.SourceInfo{{Filename: "Dockerfile"}}},
	} {
		def := ref.def.CloneVT()
		def.Source = src
		c := &Capture{def: def, edge: ref.edge}
		_, err := told().Predicate(t.Context(), c, Provenance{Version: V1})
		if bad := name == "garbage" || name == "dangling"; bad != (err != nil) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := told().Predicate(t.Context(), &Capture{def: ref.def, edge: ref.edge}, Provenance{Version: "v9"}); err == nil {
		t.Error("version v9 is told")
	}
}
