package lower

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/rogpeppe/go-internal/txtar"
)

// flags are those of the Dockerfile reference, by instruction.
var flags = map[string]string{
	"from":        "platform",
	"run":         "mount network security device",
	"add":         "chown chmod link keep-git-dir checksum unpack exclude",
	"copy":        "from chown chmod link parents exclude",
	"healthcheck": "interval timeout start-period start-interval retries",
}

// mountKeys are what RUN --mount takes, by type.
var mountKeys = map[string]string{
	"bind":   "from source src target dst destination rw readwrite ro readonly",
	"cache":  "id from source target sharing mode uid gid ro",
	"tmpfs":  "target size",
	"secret": "id source target env required mode uid gid",
	"ssh":    "id target required mode uid gid",
}

var (
	flagOf    = regexp.MustCompile(`--([a-z-]+)`)
	mountOf   = regexp.MustCompile(`--mount=(\S+)`)
	mountType = regexp.MustCompile(`type=([a-z]+)`)
)

// uses lists what a line of a Dockerfile uses: "run", "run --network", "bind target".
func uses(line string) []string {
	name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	name = strings.ToLower(name)
	if _, ok := command.Commands[name]; !ok {
		return nil
	}
	out := []string{name}
	for _, m := range flagOf.FindAllStringSubmatch(rest, -1) {
		out = append(out, name+" --"+m[1])
	}
	for _, m := range mountOf.FindAllStringSubmatch(rest, -1) {
		kind := "bind"
		if t := mountType.FindStringSubmatch(m[1]); t != nil {
			kind = t[1]
		}
		for field := range strings.SplitSeq(m[1], ",") {
			key, _, _ := strings.Cut(field, "=")
			out = append(out, kind+" "+key)
		}
	}
	return out
}

// TestGoldenIsComplete looks for golden files of every instruction, one that is
// well and one of an error in it, and of everything that it can be given.
func TestGoldenIsComplete(t *testing.T) {
	good, bad := map[string]bool{}, map[string]bool{}
	note := func(in map[string]bool, text string) {
		for line := range strings.Lines(text) {
			for _, u := range uses(line) {
				in[u] = true
			}
		}
	}
	files, _ := filepath.Glob("testdata/*/*.txtar")
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		parts := map[string]string{}
		for _, f := range a.Files {
			parts[f.Name] = string(f.Data)
		}
		if _, failed := parts["want/error"]; !failed {
			note(good, parts["Dockerfile"])
		}
		for line := range strings.Lines(parts["want/error"]) {
			if _, marked, ok := strings.Cut(line, " | >>> "); ok {
				note(bad, marked)
			}
		}
	}
	for name := range command.Commands {
		if !good[name] || !bad[name] {
			t.Errorf("%s: golden file of its success: %v, of its failure: %v", name, good[name], bad[name])
		}
		for f := range strings.FieldsSeq(flags[name]) {
			if !good[name+" --"+f] {
				t.Errorf("no golden file of %s --%s", name, f)
			}
			if !bad[name+" --"+f] {
				t.Errorf("no golden file of a failing %s --%s", name, f)
			}
		}
	}
	for kind, keys := range mountKeys {
		for k := range strings.FieldsSeq(keys) {
			if !good[kind+" "+k] {
				t.Errorf("no golden file of --mount=type=%s,%s", kind, k)
			}
		}
	}
}
