package explain

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/buildd/buildd/cache"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver/llb"
	client "github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
)

// dockerfile is a build as a frontend would have compiled it:
//
//	FROM image
//	COPY src /src
//	ENV ...
//	RUN command
//	RUN --mount=type=bind,source=lib,target=/lib last
type dockerfile struct {
	image, src, command, last string
	env                       []string // NAME=VALUE
	first                     string   // a RUN in front of the others
	run                       []client.RunOption
	mode                      client.CopyOption
}

func (d dockerfile) state() client.State {
	n, total := 0, 4
	if d.first != "" {
		total++
	}
	named := func(text string) client.ConstraintsOpt {
		n++
		return client.WithCustomName(fmt.Sprintf("[%d/%d] %s", n, total, text))
	}
	context := client.Local("context", client.WithCustomName("[internal] load build context"))
	st := client.Image(d.image, named("FROM "+d.image))
	if d.first != "" {
		st = st.Run(client.Args([]string{"/bin/sh", "-c", d.first}), named("RUN "+d.first)).Root()
	}
	info := &client.CopyInfo{CopyDirContentsOnly: true}
	opts := []client.CopyOption{info}
	if d.mode != nil {
		opts = append(opts, d.mode)
	}
	st = st.File(client.Copy(context, d.src, "/src", opts...), named("COPY "+d.src+" /src"))
	for _, e := range d.env {
		k, v, _ := strings.Cut(e, "=")
		st = st.AddEnv(k, v)
	}
	st = st.Run(append(d.run, client.Args([]string{"/bin/sh", "-c", d.command}), named("RUN "+d.command))...).Root()
	return st.Run(client.Args([]string{"/bin/sh", "-c", d.last}), client.AddMount("/lib", context, client.SourcePath("/lib"), client.Readonly), named("RUN "+d.last)).Root()
}

func newDockerfile() dockerfile {
	return dockerfile{image: "docker.io/library/base:latest", src: "/src", command: "make", last: "check"}
}

// prepared is a world that has built newDockerfile.
func prepared(t *testing.T) *world {
	w := newWorld(t)
	w.images["docker.io/library/base:latest"] = files{"/bin/sh": "shell"}
	w.images["docker.io/library/other:latest"] = files{"/bin/sh": "another shell"}
	w.context = files{"/src/main": "main", "/src/util": "util", "/lib/x": "x", "/doc": "doc"}
	if b := w.build(newDockerfile().state()); b.err != nil {
		t.Fatal(b.err)
	}
	return w
}

const (
	from, loaded, copied = "[1/4] FROM docker.io/library/base:latest", "[internal] load build context", "[2/4] COPY /src /src"
	made, checked        = "[3/4] RUN make", "[4/4] RUN check"
)

func TestCauses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world, *dockerfile)
		want   map[string]string
	}{
		"nothing": {want: map[string]string{from: "cached", loaded: "cached", copied: "cached", made: "cached", checked: "cached"}},
		"one file": {
			change: func(w *world, _ *dockerfile) { w.context["/src/util"] = "other" },
			want: map[string]string{
				from: "cached", loaded: "src/util changed (content)", copied: "src/util changed (content)",
				made:    "[2/4] COPY gave other files: /src/util changed (content)",
				checked: "[3/4] RUN gave other files: /src/util changed (content)",
			},
		},
		"files and how": {
			change: func(w *world, _ *dockerfile) {
				w.context["/src/main"] = "main#x"
				w.context["/src/new"] = ""
				delete(w.context, "/src/util")
			},
			want: map[string]string{copied: "src/main changed (mode 0644 -> 0755), src/new added, src/util removed"},
		},
		"many files": {
			change: func(w *world, _ *dockerfile) {
				for i := range 20 {
					w.context[fmt.Sprintf("/src/%02d", i)] = ""
				}
			},
			want: map[string]string{copied: "src/00 added, src/01 added, src/02 added and 17 more"},
		},
		"a file that no step sees": {
			change: func(w *world, _ *dockerfile) { w.context["/doc"] = "other" },
			want:   map[string]string{loaded: "doc changed (content)", copied: "cached", made: "cached", checked: "cached"},
		},
		"a mounted file": {
			change: func(w *world, _ *dockerfile) { w.context["/lib/x"] = "y" },
			want:   map[string]string{copied: "cached", made: "cached", checked: "lib/x changed (content)"},
		},
		"command": {
			change: func(_ *world, d *dockerfile) { d.command = "make all" },
			want:   map[string]string{copied: "cached", "[3/4] RUN make all": `command changed: "make" -> "make all"`, checked: "cached"},
		},
		"variable": {
			change: func(_ *world, d *dockerfile) { d.env = []string{"VERSION=2"} },
			want:   map[string]string{copied: "cached", made: `new variable VERSION: "2"`, checked: `new variable VERSION: "2"`},
		},
		"secret variable": {
			change: func(_ *world, d *dockerfile) { d.env = []string{"NPM_TOKEN=hunter2"} },
			want:   map[string]string{made: `new variable NPM_TOKEN`},
		},
		"options": {
			change: func(_ *world, d *dockerfile) {
				d.run = []client.RunOption{client.User("app"), client.Dir("/work"), client.Network(client.NetModeNone), client.AddExtraHost("db", []byte{10, 0, 0, 1}),
					client.AddMount("/cache", client.Scratch(), client.AsPersistentCacheDir("c", client.CacheMountShared)), client.AddSecret("/run/s", client.SecretID("s"))}
			},
			want: map[string]string{made: `new user: "app"; working directory changed: "/" -> "/work"; new host db: "10.0.0.1"; new network: "none"; ` +
				`new mount /cache: "type=cache,id=c,sharing=shared"; new mount /run/s: "type=secret,id=s,uid=0,gid=0,mode=0400,required"`},
		},
		"copy option": {
			change: func(_ *world, d *dockerfile) { d.mode = client.ChmodOpt{Mode: 0o755} },
			want:   map[string]string{copied: `instruction changed: "copy /src to /src" -> "copy /src to /src mode=0755"`},
		},
		"copy of other files": {
			change: func(_ *world, d *dockerfile) { d.src = "/lib" },
			want:   map[string]string{"[2/4] COPY /lib /src": `instruction changed: "copy /src to /src" -> "copy /lib to /src"`},
		},
		"image was pushed again": {
			change: func(w *world, _ *dockerfile) {
				w.images["docker.io/library/base:latest"] = files{"/bin/sh": "new shell"}
			},
			want: map[string]string{
				from: "image docker.io/library/base:latest is another: sha256:OLD -> sha256:NEW", copied: "image docker.io/library/base:latest is another: sha256:OLD -> sha256:NEW",
				made: "[2/4] COPY gave other files: /bin/sh changed (content)",
			},
		},
		"another image": {
			change: func(_ *world, d *dockerfile) { d.image = "docker.io/library/other:latest" },
			want: map[string]string{
				"[1/4] FROM docker.io/library/other:latest": `source changed: "docker-image://docker.io/library/base:latest" -> "docker-image://docker.io/library/other:latest"`,
				copied: `it follows "[1/4] FROM docker.io/library/other:latest" now, not "[1/4] FROM docker.io/library/base:latest"`,
			},
		},
		"a step in front": {
			change: func(w *world, d *dockerfile) { d.first = "prepare" },
			want: map[string]string{
				"[2/5] RUN prepare": "new step: the last build had none like it", "[3/5] COPY /src /src": `it follows "[2/5] RUN prepare" now, not "[1/4] FROM docker.io/library/base:latest"`,
				"[4/5] RUN make": "[3/5] COPY gave other files: /out added", "[5/5] RUN check": "cached",
			},
		},
		"a step in front and one edited": {
			change: func(w *world, d *dockerfile) { d.first, d.command = "prepare", "make all" },
			want: map[string]string{
				"[2/5] RUN prepare":  "new step: the last build had none like it",
				"[4/5] RUN make all": `command changed: "make" -> "make all"; [3/5] COPY gave other files: /out added`,
			},
		},
		"pruned": {
			change: func(w *world, _ *dockerfile) { w.prune() },
			want: map[string]string{
				from: notCachedText, loaded: notCachedText, copied: notCachedText, made: notCachedText, checked: notCachedText,
			},
		},
		"pruned and a file": {
			change: func(w *world, _ *dockerfile) { w.prune(); w.context["/src/main"] = "other" },
			want: map[string]string{
				copied: "files of the build context changed; which ones is not known, as not all of the earlier ones are here to compare with",
				made:   "files of [2/4] COPY changed; which ones is not known, as not all of the earlier ones are here to compare with",
			},
		},
		"another target": {
			change: func(w *world, d *dockerfile) { w.target = "other"; d.command = "make all" },
			want:   map[string]string{copied: "cached", "[3/4] RUN make all": "first build: none of the same target is remembered to compare with"},
		},
		"something else under the same name": {
			change: func(w *world, d *dockerfile) {
				w.unsure = true
				*d = dockerfile{image: "docker.io/library/other:latest", src: "/lib", command: "npm ci", last: "npm test"}
			},
			want: map[string]string{"[3/4] RUN npm ci": "first build: none of the same target is remembered to compare with"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := prepared(t)
				d := newDockerfile()
				if c.change != nil {
					c.change(w, &d)
				}
				b := w.build(d.state())
				if b.err != nil {
					t.Fatal(b.err)
				}
				got := b.why()
				for step, want := range c.want {
					if g := digests(got[step]); !matches(g, want) {
						t.Errorf("%s:\n got %s\nwant %s", step, g, want)
					}
				}
				for _, s := range b.steps {
					if s.State == explainv1.State_STATE_RAN && len(s.Causes) == 0 {
						t.Errorf("%s ran and has no cause", s.Name)
					}
				}
				if text := fmt.Sprint(b.steps, b.lines); strings.Contains(text, "hunter2") {
					t.Errorf("a secret is told: %s", text)
				}
				for _, text := range w.memory {
					if strings.Contains(string(text), "hunter2") {
						t.Errorf("a secret is remembered: %s", text)
					}
				}
			})
		})
	}
}

const notCachedText = "nothing changed, but its result is no longer in the cache: it was pruned, or evicted to free space"

// digests calls the two digests of a sentence OLD and NEW.
func digests(s string) string {
	for _, n := range []string{"OLD", "NEW"} {
		i := strings.Index(s, "sha256:")
		for i >= 0 && strings.HasPrefix(s[i:], "sha256:OLD") {
			j := strings.Index(s[i+1:], "sha256:")
			if j < 0 {
				return s
			}
			i += 1 + j
		}
		if i < 0 || len(s) < i+19 {
			return s
		}
		s = s[:i] + "sha256:" + n + s[i+19:]
	}
	return s
}

func matches(got, want string) bool {
	return got == want || want == "new variable NPM_TOKEN" && strings.HasPrefix(got, want) && !strings.Contains(got, ":")
}

func TestOtherSources(t *testing.T) {
	w := newWorld(t)
	commit := strings.Repeat("a1", 20)
	w.commits["example.com/repo.git"], w.commits["user:hunter2@example.com/file"] = commit, "sha256:"+strings.Repeat("c3", 32)
	st := func() client.State {
		repo := client.Git("https://example.com/repo.git", "", client.WithCustomName("[1/3] FROM repo"))
		file := client.HTTP("https://user:hunter2@example.com/file", client.WithCustomName("[internal] download"))
		return client.Scratch().File(client.Copy(repo, "/", "/repo").Copy(file, "/", "/file"), client.WithCustomName("[2/3] ADD repo file /"))
	}
	w.build(st())
	w.commits["example.com/repo.git"], w.commits["user:hunter2@example.com/file"] = strings.Repeat("b2", 20), "sha256:"+strings.Repeat("d4", 32)
	b := w.build(st())
	git, file := "example.com/repo.git is at another commit: a1a1a1a1a1a1 -> b2b2b2b2b2b2", "https://xxxxx@example.com/file has another content: sha256:c3c3c3c3c3c3 -> sha256:d4d4d4d4d4d4"
	for name, want := range map[string]string{"[1/3] FROM repo": git, "[internal] download": file, "[2/3] ADD repo file /": git + "; " + file} {
		if got := b.why()[name]; got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	if text := fmt.Sprint(b.steps, string(w.memory["target"])); strings.Contains(text, "hunter2") {
		t.Errorf("credentials are told: %s", text)
	}
}

// TestLinkedCopies holds that the two steps of a COPY --link, which have one
// number, are told apart.
func TestLinkedCopies(t *testing.T) {
	w := prepared(t)
	st := func() client.State {
		base := client.Image("docker.io/library/base:latest", client.WithCustomName("[1/2] FROM base"))
		link := client.Scratch().File(client.Copy(client.Local("context"), "/src", "/src"), client.WithCustomName("[2/2] COPY --link /src /src"))
		return client.Merge([]client.State{base, link}, client.WithCustomName("[2/2] LINK COPY --link /src /src")).
			Run(client.Args([]string{"/bin/sh", "-c", "make"}), client.WithCustomName("[3/3] RUN make")).Root()
	}
	w.build(st())
	w.context["/src/main"] = "other"
	b := w.build(st())
	for name, want := range map[string]string{
		"[2/2] COPY --link /src /src": "src/main changed (content)", "[2/2] LINK COPY --link /src /src": "[2/2] COPY gave other files: /src/main changed (content)",
		"[3/3] RUN make": "[2/2] LINK gave other files: /src/main changed (content)",
	} {
		if got := b.why()[name]; got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestNoCache(t *testing.T) {
	w := prepared(t)
	b := w.build(newDockerfile().state(), func(o *llb.Options) { o.NoCache = true })
	for name, why := range b.why() {
		if why != "the cache was not to be used (--no-cache)" {
			t.Errorf("%s: %s", name, why)
		}
	}
	if lines := saying(b.lines); lines != nil {
		t.Errorf("progress says %q", lines)
	}
}

// saying are the lines of progress that say why.
func saying(lines []string) []string {
	var out []string
	for _, l := range lines {
		if strings.HasPrefix(l, "why: ") {
			out = append(out, l)
		}
	}
	return out
}

func TestEarlyCutoff(t *testing.T) {
	w := prepared(t)
	st := func(command string) client.State {
		build := newDockerfile()
		build.command = command
		return client.Scratch().File(client.Copy(build.state(), "/out", "/out"), client.WithCustomName("[stage-1 1/1] COPY --from=build /out /out"))
	}
	w.build(st("make"))
	b := w.build(st("make -j4"))
	s := b.step(t, "stage-1")
	if s.State != explainv1.State_STATE_CACHED || s.CutOff || b.step(t, "RUN check").State != explainv1.State_STATE_CACHED || !b.step(t, "RUN check").CutOff {
		t.Errorf("%v", b.why())
	}
	w.context["/src/main"] = "MAIN" // the same in upper case
	b = w.build(st("make -j4"))
	if s := b.step(t, "stage-1"); s.State != explainv1.State_STATE_CACHED || !s.CutOff {
		t.Errorf("%v", s)
	}
}

func TestUnfinished(t *testing.T) {
	w := prepared(t)
	d := newDockerfile()
	d.command, w.fail = "broken", "broken"
	b := w.build(d.state())
	if !errors.Is(b.err, fs.ErrInvalid) {
		t.Fatal(b.err)
	}
	if s := b.step(t, "RUN broken"); s.State != explainv1.State_STATE_FAILED || s.Why != `command changed: "make" -> "broken"` {
		t.Errorf("%v", s)
	}
	w.fail = ""
	b = w.build(d.state())
	if s := b.step(t, "RUN broken"); s.Why != "nothing changed, but the step did not come to its end the last time" {
		t.Errorf("%v", s)
	}
	// What the failed build did not come to is compared with the one before.
	d.last, w.fail, d.command = "check", "worse", "worse"
	w.context["/src/main"] = "other"
	w.build(d.state())
	w.fail, d.command, d.last = "", "make", "check all"
	b = w.build(d.state())
	if s := b.step(t, "RUN check all"); !strings.HasPrefix(s.Why, `command changed: "check" -> "check all"`) {
		t.Errorf("%v", s)
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := prepared(t)
		w.settle = synctest.Wait
		if lines := saying(w.build(newDockerfile().state()).lines); lines != nil {
			t.Errorf("a cached build says %q", lines)
		}
		w.context["/src/util"] = "other\n"
		b := w.build(newDockerfile().state())
		want := []string{
			"why: [2/4] COPY gave other files: /src/util changed (content)", "why: [3/4] RUN gave other files: /src/util changed (content)", "why: src/util changed (content)",
		}
		got := saying(b.lines)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("progress says %q, want %q", got, want)
		}
		if s := b.step(t, "COPY"); len(s.Locations) != 2 || s.Locations[0].FirstLine != 3 || s.Locations[0].LastLine != 5 || s.Locations[1].FirstLine != 9 {
			t.Errorf("locations %v", s.Locations)
		}
		w.context["/src/"+strings.Repeat("long", 100)+"\x1b[2J"] = ""
		for _, l := range saying(w.build(newDockerfile().state()).lines) {
			if len(l) > maxLine+len("why: ") || strings.ContainsAny(l, "\x1b\n") {
				t.Errorf("progress says %q", l)
			}
		}
	})
}

// TestUnchangedBuildsWriteNothing holds that builds without a change cost no disk.
func TestUnchangedBuildsWriteNothing(t *testing.T) {
	w := prepared(t)
	n := w.writes
	for range 3 {
		w.build(newDockerfile().state())
	}
	if w.writes != n {
		t.Errorf("%d writes", w.writes-n)
	}
	w.context["/doc"] = "other"
	w.build(newDockerfile().state())
	if w.writes != n+1 {
		t.Errorf("%d writes after a change", w.writes-n)
	}
}

// TestWorseMemories holds that whatever is remembered, builds go on.
func TestWorseMemories(t *testing.T) {
	w := prepared(t)
	good := string(w.memory["target"])
	for _, text := range []string{
		"", "{", "null", "[]", `{"version":99}`, `{"version":1,"steps":null}`, `{"version":1,"steps":[{}]}`,
		strings.ReplaceAll(good, `"trees"`, `"trie"`), strings.ReplaceAll(good, `"inputs"`, `"in"`), strings.ReplaceAll(good, `"parts"`, `"p"`),
		strings.ReplaceAll(good, "sha256:", "sha:"), strings.ReplaceAll(good, `"place":"`, `"place":"x`), strings.ReplaceAll(good, `"output":`, `"output":-`),
		strings.Replace(good, `"trees":["`, `"trees":["gone`, 1),
	} {
		w.memory["target"] = []byte(text)
		w.context["/src/main"] += "x"
		b := w.build(newDockerfile().state())
		for _, s := range b.steps {
			if b.err != nil || s.State != explainv1.State_STATE_CACHED && s.Why == "" {
				t.Errorf("with the memory %.80q %s ran because of %q, %v", text, s.Name, s.Why, b.err)
			}
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:hunter2@example.com/x":    "https://xxxxx@example.com/x",
		"curl https://token@example.com/a && x": "curl https://xxxxx@example.com/a && x",
		"git@github.com:a/b":                    "git@github.com:a/b",
		"a@b https://example.com/a@b":           "a@b https://example.com/a@b",
		"":                                      "",
	} {
		if got := redact(in); got != want {
			t.Errorf("redact(%q) = %q", in, got)
		}
	}
	var l partList
	for name, hidden := range map[string]bool{
		"PASSWORD": true, "DB_PASSWD": true, "api_key": true, "AWS_SECRET_ACCESS_KEY": true, "GITHUB_TOKEN": true, "KEY": true, "AUTH": true,
		"MONKEY": false, "VERSION": false, "TOKEN_FILE": false, "PUBLIC_KEY": false, "AUTHOR": false,
	} {
		l = nil
		l.variable(name, "hunter2")
		if l[0].Hidden != hidden || hidden == strings.Contains(l[0].Value, "hunter2") {
			t.Errorf("%s: %+v", name, l[0])
		}
	}
	l = nil
	l.variable("INDEX", "https://u:hunter2@host/")
	old := l[0]
	l = nil
	l.variable("INDEX", "https://u:hunter3@host/")
	if old.same(l[0]) || strings.Contains(fmt.Sprint(l, old), "hunter") {
		t.Errorf("%+v and %+v", old, l[0])
	}
	if c := changed(old, l[0]); c.Text != "variable INDEX changed in a part that is not shown" {
		t.Error(c.Text)
	}
}

func TestShown(t *testing.T) {
	a := strings.Repeat("a", 500)
	old, new := shown(a+"old"+a, a+"new"+a, 100)
	if !strings.Contains(old, "aold") || !strings.Contains(new, "anew") || len(old) > 110 || len(new) > 110 {
		t.Errorf("%q, %q", old, new)
	}
	if old, new = shown("x", a, 100); old != "x" || len(new) > 100 {
		t.Errorf("%q, %q", old, new)
	}
	if old, new = shown(strings.Repeat("ü", 200)+"1", strings.Repeat("ü", 200), 100); !strings.HasSuffix(old, "1") || strings.Contains(old+new, "\uFFFD") {
		t.Errorf("%q, %q", old, new)
	}
}

func TestPlaces(t *testing.T) {
	o := &llb.Op{Def: dockerfileOp(t)}
	for name, want := range map[string]string{
		"[build 2/4] RUN a/b":            "exec build 2",
		"[build  2/14] RUN make":         "exec build 2",
		"[2/4] RUN x [y] 1/2":            "exec 2",
		"[linux/arm64/v8 build 2/4] RUN": "exec linux/arm64/v8 build 2",
		"[internal] load build context":  "exec [internal] load build context",
		"make":                           "exec make",
		"[":                              "exec [",
	} {
		if got := place(name, o); got != want {
			t.Errorf("place(%q) = %q, want %q", name, got, want)
		}
	}
}

func dockerfileOp(t *testing.T) *pb.Op {
	t.Helper()
	def, err := client.Scratch().Run(client.Args([]string{"make"})).Root().Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	op := &pb.Op{}
	if err := op.UnmarshalVT(def.Def[0]); err != nil {
		t.Fatal(err)
	}
	return op
}

// TestFilesAreBounded compares trees that have nothing in common.
func TestFilesAreBounded(t *testing.T) {
	w := newWorld(t)
	all := files{}
	for i := range maxChanges + 100 {
		all[fmt.Sprintf("/%06d", i)] = ""
	}
	fs, more, err := w.x.files(t.Context(), w.tree(files{}), w.tree(all), cache.Root, false)
	if err != nil || len(fs) != maxFiles || int(more) < maxChanges-maxFiles {
		t.Errorf("%d files, %d more, %v", len(fs), more, err)
	}
	if _, _, err := w.x.files(t.Context(), "gone", w.tree(all), cache.Root, false); err == nil {
		t.Error("a tree that is gone was compared")
	}
}
