package lower

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzLower feeds Dockerfiles, build arguments and triggers of base images that nobody would write. Whatever they are, lowering
// ends soon, with a result whose vertices can be marshalled and have printable names, or with an error.
func FuzzLower(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			if file.Name == "Dockerfile" {
				f.Add(file.Data, "a=b\nVERSION=1", "RUN x\x00COPY --from=base a b")
			}
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, args, triggers string) {
		world := &fakeWorld{
			images:     map[string]string{"parent": triggerImage(t, strings.Split(triggers, "\x00"))},
			contexts:   map[string]string{"files": "local", "repo": "git"},
			ignored:    []string{"*.tmp"},
			sourceTime: 1,
		}
		o := Options{BuildArgs: map[string]string{}, Contexts: world, MetaResolver: world, Warn: func(string, string, string, string, []parser.Range) {}}
		for kv := range strings.SplitSeq(args, "\n") {
			k, v, _ := strings.Cut(kv, "=")
			o.BuildArgs[k] = v
		}
		o.SourceMap = llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", src)
		start := time.Now()
		tryLower(t, src, o)
		o.MultiPlatform, o.TargetPlatform = true, &amd64
		if _, err := Outline(context.Background(), src, o); err == nil {
			if _, err := Targets(context.Background(), src); err != nil {
				t.Errorf("there is an outline but no list of targets: %v", err)
			}
		}
		if _, err := Lint(context.Background(), src, o); err != nil {
			t.Errorf("lint: %v", err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func tryLower(t *testing.T, src []byte, o Options) {
	r, err := Lower(context.Background(), src, o)
	if err != nil {
		if r != nil {
			t.Error("a result beside an error")
		}
		return
	}
	def, err := r.State.Marshal(context.Background())
	if err != nil {
		return // llb refuses some values on its own
	}
	for _, m := range def.Metadata {
		for _, v := range m.Description {
			if !utf8.ValidString(v) {
				t.Errorf("vertex name %q", v)
			}
		}
	}
}
