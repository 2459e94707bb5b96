package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// why is what "buildctl why --format json" prints, as far as it is looked at.
type why struct {
	Build string
	Steps []struct {
		Number    int
		Name      string
		State     string
		Why       string
		CutOff    bool
		Locations []struct{ File string }
		Causes    []struct {
			Kind, Name, Old, New string
			Hidden               bool
			More                 int
			Files                []struct {
				Path, Change string
				How          []string
			}
		}
	}
}

func (d *daemon) why(args ...string) why {
	d.t.Helper()
	var w why
	if err := json.Unmarshal([]byte(d.ctl(append([]string{"why", "--format", "json"}, args...)...).Out), &w); err != nil {
		d.t.Fatal(err)
	}
	return w
}

// ran returns why each of the Dockerfile's steps ran, by its name without the
// brackets.
func (w why) ran() map[string]string {
	out := map[string]string{}
	for _, s := range w.Steps {
		if _, name, _ := strings.Cut(s.Name, "] "); s.State != "cached" && !strings.HasPrefix(s.Name, "[internal]") {
			out[name] = s.Why
		}
	}
	return out
}

// expect fails the test unless exactly the steps of want ran, for these reasons.
// A reason may end in "...".
func (w why) expect(t *testing.T, want map[string]string) {
	t.Helper()
	got := w.ran()
	for name, reason := range want {
		g, ok := got[name]
		begin, open := strings.CutSuffix(reason, "...")
		if !ok || !(g == reason || open && strings.HasPrefix(g, begin)) {
			t.Errorf("%s:\n got %q\nwant %q", name, g, reason)
		}
	}
	if len(got) != len(want) {
		t.Errorf("what ran: %q, want %d steps", got, len(want))
	}
}

const explained = `FROM base:latest AS build
ARG VERSION=1
COPY src /src
RUN tr a-z A-Z < /src/main.txt > /main.out
RUN --mount=type=bind,source=lib,target=/lib cat /lib/x > /lib.out; echo $VERSION > /version
FROM base:latest
COPY --from=build /main.out /main.out
RUN sleep 0.3; cat /main.out > /all
`

const (
	copied = "COPY src /src"
	upper  = "RUN tr a-z A-Z < /src/main.txt > /main.out"
	linked = "RUN --mount=type=bind,source=lib,target=/lib cat /lib/x > /lib.out; echo 1 > /version"
	taken  = "COPY --from=build /main.out /main.out"
	last   = "RUN sleep 0.3; cat /main.out > /all"
)

// base puts an image into the store whose root holds a version.
func (d *daemon) base(version string) {
	d.t.Helper()
	dir := buildContext(d.t, map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY version /etc/version\n", "version": version})
	d.ctl("build", "-t", "base:latest", dir)
}

func TestWhy(t *testing.T) {
	d := startWithBusybox(t)
	d.base("1")
	dir := buildContext(t, map[string]string{"Dockerfile": explained, "src/main.txt": "main\n", "src/util.txt": "util\n", "lib/x": "x\n", "doc.txt": "doc\n"})
	build := func(args ...string) run {
		t.Helper()
		return d.ctl(append([]string{"build", "--progress=plain", "-t", "explained", dir}, args...)...)
	}
	first := build()
	const firstBuild = "first build..."
	w := d.why()
	w.expect(t, map[string]string{fromName(w): firstBuild, copied: firstBuild, upper: firstBuild, linked: firstBuild, taken: firstBuild, last: firstBuild})
	for _, s := range w.Steps {
		if strings.Contains(s.Name, "RUN") && !strings.Contains(first.Err, fmt.Sprintf("\n#%d %s\n", s.Number, s.Name)) {
			t.Errorf("%s has number %d:\n%s", s.Name, s.Number, first.Err)
		}
	}
	if strings.Contains(first.Err, "why:") {
		t.Errorf("the first build says why:\n%s", first.Err)
	}

	if r := build(); strings.Contains(r.Err, "why:") {
		t.Errorf("a cached build says why:\n%s", r.Err)
	}
	d.why().expect(t, nil)
	if out := d.ctl("why").Out; !strings.Contains(out, "nothing ran: 6 steps cached") {
		t.Errorf("of a cached build it says\n%s", out)
	}

	t.Run("file", func(t *testing.T) {
		d := d.with(t)
		write(t, dir, "src/main.txt", "other\n")
		r := build()
		d.why().expect(t, map[string]string{
			copied: "src/main.txt changed (content)", upper: "[build 2/4] COPY gave other files: /src/main.txt changed (content)",
			linked: "[build 3/4] RUN gave other files: /main.out changed (content), /src/main.txt changed (content)",
			taken:  "[build 4/4] RUN gave other files: /main.out changed (content)", last: "[stage-1 2/3] COPY gave other files: /main.out changed (content)",
		})
		if !strings.Contains(r.Err, "why: [stage-1 2/3] COPY gave other files: /main.out changed (content)") {
			t.Errorf("progress does not say why:\n%s", r.Err)
		}
		out := d.ctl("why", "latest", "2/4").Out
		if !regexp.MustCompile(`(?m)^#\d+ \[build 2/4\] COPY src /src  Dockerfile:3\n   src/main.txt changed \(content\)$`).MatchString(out) {
			t.Errorf("it prints\n%s", out)
		}
	})
	t.Run("early cutoff", func(t *testing.T) {
		d := d.with(t)
		write(t, dir, "src/util.txt", "other\n")
		if err := os.Chmod(filepath.Join(dir, "src/util.txt"), 0o755); err != nil {
			t.Fatal(err)
		}
		build()
		w := d.why()
		w.expect(t, map[string]string{
			copied: "src/util.txt changed (content, mode 0644 -> 0755)", upper: "[build 2/4] COPY gave other files: /src/util.txt changed...",
			linked: "[build 3/4] RUN gave other files: /src/util.txt changed...",
		})
		cut := 0
		for _, s := range w.Steps {
			if s.CutOff {
				cut++
			}
		}
		if cut != 1 || !strings.Contains(d.ctl("why").Out, "3 steps ran, 3 cached (1 of them although a step that it reads ran again") {
			t.Errorf("%d steps were cut off:\n%s", cut, d.ctl("why").Out)
		}
	})
	t.Run("argument", func(t *testing.T) {
		d := d.with(t)
		build("--build-arg", "VERSION=2")
		reason := `variable VERSION changed: "1" -> "2"`
		d.why().expect(t, map[string]string{upper: reason, strings.Replace(linked, "echo 1", "echo 2", 1): reason})
		build()
	})
	t.Run("mounted file", func(t *testing.T) {
		d := d.with(t)
		write(t, dir, "lib/x", "y\n")
		write(t, dir, "doc.txt", "nobody reads it\n")
		build()
		d.why().expect(t, map[string]string{linked: "lib/x changed (content)"})
	})
	t.Run("no cache", func(t *testing.T) {
		d := d.with(t)
		build("--no-cache")
		for name, reason := range d.why().ran() {
			if reason != "the cache was not to be used (--no-cache)" {
				t.Errorf("%s: %s", name, reason)
			}
		}
	})
	t.Run("base image", func(t *testing.T) {
		d := d.with(t)
		d.base("2")
		build()
		w := d.why()
		another := regexp.MustCompile(`^image docker.io/library/base:latest is another: sha256:[0-9a-f]{12} -> sha256:[0-9a-f]{12}$`)
		ran := w.ran()
		if len(ran) != 6 || !another.MatchString(ran[copied]) || !another.MatchString(ran[fromName(w)]) {
			t.Errorf("%q", ran)
		}
		if want := "[build 2/4] COPY gave other files: /etc/version changed (content)"; ran[upper] != want {
			t.Errorf("%q, want %q", ran[upper], want)
		}
	})
	t.Run("prune", func(t *testing.T) {
		d := d.with(t)
		d.ctl("prune", "--all")
		build()
		for name, reason := range d.why().ran() {
			if !strings.Contains(reason, "no longer in the cache") {
				t.Errorf("%s: %s", name, reason)
			}
		}
		if len(d.why().ran()) != 6 {
			t.Errorf("%q ran", d.why().ran())
		}
		// Only what was pruned cannot be compared.
		d.ctl("prune", "--all")
		write(t, dir, "src/main.txt", "once more\n")
		build()
		if reason := d.why().ran()[copied]; !strings.HasPrefix(reason, "files of the build context changed; which ones is not known") {
			t.Errorf("%s: %s", copied, reason)
		}
	})

	// A crash loses the last moments, how many depends on the disk.
	for wait := time.Second; ; wait *= 2 {
		before := d.why()
		d.ctl("debug", "ctl", "--pin", before.Build) // waits for the record to be written
		time.Sleep(wait)
		d.kill()
		d.start()
		after := d.why(before.Build)
		if fmt.Sprint(before) != fmt.Sprint(after) || len(after.ran()) == 0 {
			t.Errorf("before the kill: %+v\nafter it: %+v", before, after)
		}
		file := fmt.Sprintf("src/%s.txt", wait)
		write(t, dir, file, "")
		build()
		reason := d.why().ran()[copied]
		if reason == file+" added" {
			break
		}
		if wait > 20*time.Second {
			t.Fatalf("after a restart: %q", reason)
		}
	}
}

func fromName(w why) string {
	for _, s := range w.Steps {
		if _, name, _ := strings.Cut(s.Name, "] "); strings.HasPrefix(name, "FROM") {
			return name
		}
	}
	return "FROM"
}

func TestWhyTellsNoSecret(t *testing.T) {
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM busybox:latest
ARG API_TOKEN
ARG INDEX
RUN --mount=type=secret,id=s,required=true cat /run/secrets/s > /dev/null
RUN --mount=type=secret,id=s,env=S test -n "$S"
`})
	secrets := []string{"first-secret-value-0123", "second-secret-value-4567"}
	var said string
	for i, s := range secrets {
		file := filepath.Join(t.TempDir(), "s")
		write(t, filepath.Dir(file), "s", s)
		r := d.ctl("build", "--progress=plain", "--secret", "id=s,src="+file, "--build-arg", fmt.Sprintf("API_TOKEN=hunter%d", i),
			"--build-arg", fmt.Sprintf("INDEX=https://user:hunter%d@example.com/%d", i, i), "-t", "x", dir)
		said += d.ctl("why").Out + d.ctl("why", "--format", "json").Out
		for l := range strings.Lines(r.Err) {
			if strings.Contains(l, "why:") {
				said += l
			}
		}
	}
	for _, want := range []string{
		"variable API_TOKEN changed (its value may be secret and is not shown)", `variable INDEX changed: "https://xxxxx@example.com/0" -> "https://xxxxx@example.com/1"`,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if strings.Contains(said, "hunter") || strings.Contains(said, "secret-value") {
		t.Errorf("it tells secrets:\n%s", said)
	}
	d.stop()
	if files := found(t, d.Root, secrets...); len(files) > 0 {
		t.Errorf("secrets are in %q", files)
	}
	if b, err := os.ReadFile(filepath.Join(d.Root, "actions.db")); err != nil || strings.Contains(string(b), "hunter") {
		t.Errorf("credentials are remembered, %v", err)
	}
}

func TestWhyBadInput(t *testing.T) {
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN true\nRUN false || exit 3\n"})
	d.fails([]string{"exit code: 3"}, "build", "--ref-file", filepath.Join(t.TempDir(), "ref"), dir)
	w := d.why()
	if s := w.Steps[len(w.Steps)-1]; s.State != "failed" || !strings.HasPrefix(s.Why, "first build") {
		t.Errorf("the failed step: %+v", s)
	}
	if out := d.ctl("why").Out; !strings.Contains(out, "(failed)") {
		t.Errorf("of a failed build it says\n%s", out)
	}
	if again := d.why(w.Build[:len(w.Build)-1]); again.Build != w.Build {
		t.Errorf("the beginning of %s gives %s", w.Build, again.Build)
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"nosuch"}, []string{`build "nosuch": no record of this build`, "buildctl why latest nosuch"}},
		{[]string{"nosuch", "1"}, []string{`build "nosuch": no record of this build`}},
		{[]string{"../../etc/passwd"}, []string{"no record of this build"}},
		{[]string{"latest", "0"}, []string{"numbers of steps begin with 1"}},
		{[]string{"latest", "--", "-1"}, []string{"numbers of steps begin with 1"}},
		{[]string{"latest", "99"}, []string{"step 99: the last step of the build has number"}},
		{[]string{"latest", "99999999999999999999"}, []string{`step "99999999999999999999": the build has none of that name`}},
		{[]string{"latest", "npm"}, []string{`step "npm": the build has none of that name`}},
		{[]string{"latest", "3/9"}, []string{`step "3/9": the build has none of that name`}},
		{[]string{"a", "b", "c"}, []string{"accepts at most 2 arg(s)"}},
		{[]string{"--format", "{{.Nosuch}}"}, []string{"--format", "Nosuch"}},
		{[]string{"--format", "{{"}, []string{"--format"}},
	} {
		d.fails(c.want, append([]string{"why"}, c.args...)...)
	}
	for range 40 { // references are random: two of 37 begin alike
		d.ctl("build", "-t", "x", buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}))
		begin := map[byte][]string{}
		for _, ref := range strings.Fields(d.ctl("debug", "histories", "--format", "{{.Record.Ref}}").Out) {
			if begin[ref[0]] = append(begin[ref[0]], ref); len(begin[ref[0]]) > 1 {
				d.fails([]string{fmt.Sprintf("%q begins the references of", ref[:1]), ref, begin[ref[0]][0]}, "why", ref[:1])
				return
			}
		}
	}
	t.Error("no two references begin alike")
}
