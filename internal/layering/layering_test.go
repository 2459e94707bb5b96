package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/buildd/buildd/"
	buildkit = "github.com/moby/buildkit/"
)

// below lists, for each layer, the layers that it may import beside itself.
var below = map[string][]string{
	"cmd":      {"builder", "frontend", "worker", "solver", "cache", "proto"},
	"builder":  {"frontend", "worker", "solver", "cache", "proto"},
	"worker":   {"solver", "cache", "proto"},
	"frontend": {"solver", "cache"},
	"solver":   {"cache"},
	"cache":    {},
	"proto":    {},
	"internal": {},
	"e2e":      {},
	"examples": {},
}

// ofBuildKit is what may be imported of BuildKit, each with what lies below it.
var ofBuildKit = []string{
	"frontend/dockerfile/parser", "frontend/dockerfile/instructions", "frontend/dockerfile/shell", "frontend/dockerfile/command",
	"frontend/dockerfile/linter", "api/services/control", "api/types", "solver/pb", "solver/errdefs", "session", "client/llb",
	"frontend/gateway/pb", "frontend/gateway/client", "frontend/subrequests", "sourcepolicy/pb", "exporter/containerimage/exptypes",
	"exporter/exptypes", "exporter/util/epoch/exptypes", "util/apicaps", "util/grpcerrors", "util/progress/progressui",
}

// inBuildctl may be imported by the client in addition.
var inBuildctl = []string{"client", "util/progress/progresswriter"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

func layer(path string) string {
	l, _, _ := strings.Cut(strings.TrimPrefix(path, module), "/")
	return l
}

func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return path == r || strings.HasPrefix(path, r+"/") })
}

func TestImportsOnlyGoDown(t *testing.T) {
	ps := packages(t)
	if len(ps) < 10 {
		t.Fatalf("found %d packages only", len(ps))
	}
	for _, p := range ps {
		from := layer(p.ImportPath)
		allowed, ok := below[from]
		if !ok {
			t.Errorf("%s is in no known layer", p.ImportPath)
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, module) {
				continue
			}
			if to := layer(i); to != from && to != "internal" && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: %s may import only %s", p.ImportPath, i, from, strings.Join(allowed, ", "))
			}
		}
	}
}

func TestOnlyProtocolsOfBuildKit(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			rest, ok := strings.CutPrefix(i, buildkit)
			if !ok || within(rest, ofBuildKit) {
				continue
			}
			if within(p.ImportPath, []string{module + "cmd/buildctl"}) && within(rest, inBuildctl) {
				continue
			}
			t.Errorf("%s imports %s, which is not of BuildKit's protocols", p.ImportPath, i)
		}
	}
}

// TestFoldersHaveNoCycle finds a folder of the top two levels that imports
// itself through others.
func TestFoldersHaveNoCycle(t *testing.T) {
	graph := map[string][]string{}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			if strings.HasPrefix(i, module) && folder(i) != folder(p.ImportPath) {
				graph[folder(p.ImportPath)] = append(graph[folder(p.ImportPath)], folder(i))
			}
		}
	}
	state := map[string]int{}
	var visit func(n string, trail []string)
	visit = func(n string, trail []string) {
		switch trail = append(trail, n); state[n] {
		case 1:
			t.Errorf("folders import each other: %s", strings.Join(trail, " -> "))
		case 0:
			state[n] = 1
			for _, m := range graph[n] {
				visit(m, trail)
			}
			state[n] = 2
		}
	}
	for n := range graph {
		visit(n, nil)
	}
}

func folder(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, module), "/")
	return strings.Join(parts[:min(2, len(parts))], "/")
}
