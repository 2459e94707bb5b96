package lower

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the tests get into their golden files")

// TestGolden runs every testdata/**/*.txtar. An archive holds a Dockerfile, "options" (see testOptions), configs of images as
// image/NAME, and what shall come out of it as want/llb, want/config, want/warnings, want/error or the answer of a subrequest.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found only %d golden files", len(files))
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(f, "testdata/"), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runGolden(t, f)
		})
	}
}

func runGolden(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	in, want := &txtar.Archive{Comment: a.Comment}, map[string]string{}
	for _, f := range a.Files {
		if strings.HasPrefix(f.Name, "want/") {
			want[f.Name] = string(f.Data)
		} else {
			in.Files = append(in.Files, f)
		}
	}
	got := lowerArchive(t, in)
	if *update {
		in.Files = append(in.Files, got...)
		if err := os.WriteFile(file, txtar.Format(in), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, f := range got {
		if want[f.Name] != string(f.Data) {
			t.Errorf("%s:\n%s", f.Name, lineDiff(want[f.Name], string(f.Data)))
		}
		delete(want, f.Name)
	}
	for name := range want {
		t.Errorf("%s: nothing like it came out", name)
	}
}

// lowerArchive does what the options of an archive say with the Dockerfile in it.
func lowerArchive(t *testing.T, a *txtar.Archive) []txtar.File {
	files := map[string]string{}
	for _, f := range a.Files {
		files[f.Name] = string(f.Data)
	}
	src := []byte(strings.TrimSuffix(files["Dockerfile"], "\n"))
	if _, ok := files["Dockerfile"]; !ok {
		t.Fatal("no Dockerfile in the archive")
	}
	var warnings strings.Builder
	test := parseTestOptions(t, files)
	o := test.Options
	o.SourceMap = llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", src)
	o.Warn = func(rule, _, _, text string, where []parser.Range) {
		first, _ := lineSpan(where)
		fmt.Fprintf(&warnings, "%s line %d: %s\n", rule, first, text)
	}
	var out []txtar.File
	add := func(name, data string) {
		if data != "" {
			out = append(out, txtar.File{Name: "want/" + name, Data: []byte(strings.TrimSuffix(data, "\n") + "\n")})
		}
	}
	var err error
	ctx := context.Background()
	switch test.request {
	case "outline":
		var v any
		v, err = Outline(ctx, src, o)
		add("outline", asJSON(t, v, err))
	case "targets":
		var v any
		v, err = Targets(ctx, src)
		err = WithSource(err, o.SourceMap)
		add("targets", asJSON(t, v, err))
	case "lint":
		r, lerr := Lint(ctx, src, o)
		if err = lerr; err == nil {
			r.Sources = nil
		}
		add("lint", asJSON(t, r, err))
	case "convertllb":
		r, lerr := LLB(ctx, src, o)
		if err = lerr; err == nil {
			add("convertllb", fmt.Sprintf("%d ops, %d with metadata\n", len(r.Def), len(r.Metadata)))
		}
	default:
		var r *Result
		if r, err = Lower(ctx, src, o); err == nil {
			def, merr := r.State.Marshal(ctx)
			if merr != nil {
				t.Fatal(merr)
			}
			add("llb", llbText(t, def))
			add("config", configText(t, r))
		}
	}
	add("warnings", warnings.String())
	if err != nil {
		add("error", errorText(err))
	}
	return out
}

func asJSON(t *testing.T, v any, err error) string {
	if err != nil {
		return ""
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// errorText is an error as a client prints it.
func errorText(err error) string {
	var b strings.Builder
	for _, s := range errdefs.Sources(err) {
		_ = s.Print(&b)
	}
	fmt.Fprintf(&b, "ERROR: %v\n", err)
	var l *parser.LocationError
	if errors.As(err, &l) != (len(errdefs.Sources(err)) > 0) {
		b.WriteString("the location was lost\n")
	}
	return b.String()
}

// configText is all of a result but its state.
func configText(t *testing.T, r *Result) string {
	var b strings.Builder
	img := r.Image
	for _, h := range img.History {
		kind := "layer"
		if h.EmptyLayer {
			kind = "empty"
		}
		when := ""
		if h.Created != nil {
			when = " " + h.Created.UTC().Format("2006-01-02T15:04:05Z")
		}
		fmt.Fprintf(&b, "history %s%s: %s\n", kind, when, strings.ReplaceAll(h.CreatedBy, "\n", `\n`))
		if h.Comment != historyComment {
			fmt.Fprintf(&b, "  comment %q\n", h.Comment)
		}
	}
	img.History = nil
	b.WriteString(asJSON(t, img, nil) + "\n")
	if r.BaseImage != nil {
		fmt.Fprintf(&b, "base %s/%s, %d lines of history\n", r.BaseImage.OS, r.BaseImage.Architecture, len(r.BaseImage.History))
	}
	if r.Epoch != nil {
		fmt.Fprintf(&b, "epoch %d\n", r.Epoch.Unix())
	}
	if r.NoCache {
		b.WriteString("no cache\n")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Scan.Extras)) {
		fmt.Fprintf(&b, "scan %s\n", name)
	}
	return b.String()
}

// lineDiff shows two texts from where they begin to differ.
func lineDiff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	from := max(0, i-3)
	return fmt.Sprintf("from line %d\n--- want\n%s\n--- got\n%s", from+1,
		strings.Join(w[from:min(len(w), i+12)], "\n"), strings.Join(g[from:min(len(g), i+12)], "\n"))
}
