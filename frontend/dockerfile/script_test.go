package dockerfile

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what was seen into testdata/*.txtar")

// TestScripts runs whole requests. The files of a script:
//
//	opts                the options, NAME=VALUE each
//	SOURCE|PATH         a file of a source, such as local://dockerfile|Dockerfile
//	image ID            an image's config
//	modified ID         when an HTTP source was last modified
//	input NAME          the files of NAME are those of the source local://NAME
//	want                what the daemon was asked, and the result or the error
//
// Of a solved definition only the sources count here; what a Dockerfile means is tested in lower.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, name := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			client, want := load(t, a)
			res, err := Frontend{}.Build(context.Background(), client)
			got := report(client, res, err)
			if *update {
				setFile(a, "want", got)
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("saw\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func load(t *testing.T, a *txtar.Archive) (c *fakeClient, want string) {
	t.Helper()
	c = &fakeClient{
		opts: map[string]string{}, files: map[string]map[string]string{}, images: map[string]string{}, inputs: map[string]llb.State{},
		meta:    map[string]*sourceresolver.MetaResponse{},
		gateway: func(gwclient.SolveRequest) error { return nil },
	}
	for _, f := range a.Files {
		data := string(f.Data)
		switch {
		case f.Name == "want":
			want = data
		case f.Name == "opts":
			for line := range strings.Lines(data) {
				k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				if !ok {
					t.Fatalf("option %q has no =", line)
				}
				c.opts[k] = v
			}
		case strings.HasPrefix(f.Name, "image "):
			c.images[strings.TrimPrefix(f.Name, "image ")] = data
		case strings.HasPrefix(f.Name, "modified "):
			at, err := time.Parse(time.RFC3339, strings.TrimSpace(data))
			if err != nil {
				t.Fatal(err)
			}
			c.meta[strings.TrimPrefix(f.Name, "modified ")] = &sourceresolver.MetaResponse{HTTP: &sourceresolver.ResolveHTTPResponse{LastModified: &at}}
		case strings.HasPrefix(f.Name, "input "):
			name := strings.TrimPrefix(f.Name, "input ")
			c.inputs[name] = llb.Local(name, llb.SessionID("inputs"))
		default:
			source, path, ok := strings.Cut(f.Name, "|")
			if !ok {
				t.Fatalf("unknown file %q", f.Name)
			}
			if c.files[source] == nil {
				c.files[source] = map[string]string{}
			}
			c.files[source][path] = data
		}
	}
	return c, want
}

func setFile(a *txtar.Archive, name, data string) {
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(data)
			return
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(data)})
}

// report tells what c was asked, in an order that does not depend on which platform was faster.
func report(c *fakeClient, res *gwclient.Result, err error) string {
	var b strings.Builder
	var solves []string
	for _, r := range c.solves {
		if r.Frontend != "" {
			solves = append(solves, "forward"+attrs(r.FrontendOpt)+"\n")
			continue
		}
		for line := range strings.Lines(sources(r.Definition)) {
			solves = append(solves, "solve "+line)
		}
		for _, im := range r.CacheImports {
			solves = append(solves, "import cache "+im.Type+attrs(im.Attrs)+"\n")
		}
	}
	slices.Sort(c.resolves)
	slices.Sort(solves)
	slices.Sort(c.warnings)
	for _, s := range slices.Compact(solves) {
		b.WriteString(s)
	}
	for _, r := range c.resolves {
		fmt.Fprintln(&b, "resolve", r)
	}
	for _, w := range c.warnings {
		fmt.Fprintln(&b, "warn", w)
	}
	if err != nil {
		fmt.Fprintf(&b, "error %v\n", err)
		for _, s := range errdefs.Sources(err) {
			fmt.Fprintf(&b, "at %s:%d\n", s.Info.Filename, s.Ranges[0].Start.Line)
		}
		return b.String()
	}
	if res.Ref != nil {
		fmt.Fprintln(&b, "ref")
	}
	for _, id := range slices.Sorted(maps.Keys(res.Refs)) {
		fmt.Fprintln(&b, "ref", id)
	}
	for _, k := range slices.Sorted(maps.Keys(res.Metadata)) {
		fmt.Fprintf(&b, "meta %s: %s\n", k, strings.ReplaceAll(strings.TrimSpace(string(res.Metadata[k])), "\n", "\n    "))
	}
	for _, id := range slices.Sorted(maps.Keys(res.Attestations)) {
		for _, a := range res.Attestations[id] {
			fmt.Fprintf(&b, "attestation %s: %s\n", id, a.InToto.PredicateType)
		}
	}
	return b.String()
}
