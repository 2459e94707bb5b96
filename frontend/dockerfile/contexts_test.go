package dockerfile

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// open starts a build with c as far as its Dockerfile is read.
func open(t *testing.T, c *fakeClient) (*build, error) {
	t.Helper()
	b, err := newBuild(context.Background(), c)
	if err != nil {
		return nil, err
	}
	return b, b.open(context.Background())
}

func mustOpen(t *testing.T, c *fakeClient) *build {
	t.Helper()
	b, err := open(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// show lists the sources of st.
func show(t *testing.T, st *llb.State) string {
	t.Helper()
	def, err := st.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return sources(def.ToPB())
}

func local(files map[string]string) map[string]map[string]string {
	return map[string]map[string]string{"local://dockerfile": files, "local://context": files}
}

func TestMainContext(t *testing.T) {
	const head = "local://dockerfile local.differ=none local.followpaths=[\"Dockerfile\",\"Dockerfile.dockerignore\",\"dockerfile\"] " +
		"local.session=session0 local.sharedkeyhint=dockerfile # [internal] load build definition from Dockerfile\n"
	df := map[string]string{"Dockerfile": "FROM scratch", "sub/Other": "FROM other"}
	gitContext := "git://host/r.git#main git.authheadersecret=GIT_AUTH_HEADER git.authtokensecret=GIT_AUTH_TOKEN git.fullurl=https://host/r.git"
	for name, c := range map[string]struct {
		client     *fakeClient
		definition string // the solve that reads the Dockerfile
		main       string
		filename   string
	}{
		"local": {
			client:     &fakeClient{files: local(df)},
			definition: head,
			main:       "local://context local.session=session0 local.sharedkeyhint=context # [internal] load build context\n",
		},
		"sessions": {
			client: &fakeClient{files: local(df), opts: map[string]string{
				"local-sessionid:context": "c", "local-sessionid:dockerfile": "d",
			}},
			definition: strings.Replace(head, "session0", "d", 1),
			main:       "local://context local.session=c local.sharedkeyhint=context # [internal] load build context\n",
		},
		"other file": {
			client: &fakeClient{files: local(df), opts: map[string]string{"filename": "sub/Other"}},
			definition: "local://dockerfile local.differ=none local.followpaths=[\"sub/Other\",\"sub/Other.dockerignore\"] " +
				"local.session=session0 local.sharedkeyhint=dockerfile # [internal] load build definition from sub/Other\n",
			main:     "local://context local.session=session0 local.sharedkeyhint=context # [internal] load build context\n",
			filename: "sub/Other",
		},
		"git": {
			client:     &fakeClient{files: map[string]map[string]string{"git://host/r.git#main": df}, opts: map[string]string{"context": "https://host/r.git#main"}},
			definition: gitContext + " # [internal] load git source https://host/r.git#main\n",
			main:       gitContext + " # [internal] load git source https://host/r.git#main\n",
		},
		"git for a reproducible image": {
			client: &fakeClient{files: map[string]map[string]string{"git://host/r.git#main": df}, opts: map[string]string{
				"context": "https://host/r.git#main", "build-arg:SOURCE_DATE_EPOCH": "0", "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1",
			}},
			definition: strings.Replace(gitContext, " git.fullurl=https://host/r.git", " git.fullurl=https://host/r.git git.keepgitdir=true git.mtime=commit", 1) +
				" # [internal] load git source https://host/r.git#main\n",
			main: strings.Replace(gitContext, " git.fullurl=https://host/r.git", " git.fullurl=https://host/r.git git.keepgitdir=true git.mtime=commit", 1) +
				" # [internal] load git source https://host/r.git#main\n",
		},
		"git by another option, Dockerfile of the client": {
			client: &fakeClient{files: map[string]map[string]string{"local://df2": df}, opts: map[string]string{
				"contextkey": "url", "url": "https://host/r.git#main", "dockerfilekey": "df2",
			}},
			definition: strings.NewReplacer("local://dockerfile", "local://df2", "sharedkeyhint=dockerfile", "sharedkeyhint=df2").Replace(head),
			main:       gitContext + " # [internal] load git source https://host/r.git#main\n",
		},
		"Dockerfile by URL": {
			client:     &fakeClient{files: map[string]map[string]string{"http://host/df": {"context": "FROM scratch"}}, opts: map[string]string{"context": "http://host/df"}},
			definition: "http://host/df http.filename=context # [internal] load remote build context\n",
			main:       "http://host/df http.filename=context # [internal] load remote build context\n",
			filename:   "context",
		},
		"archive by URL": {
			client: &fakeClient{files: map[string]map[string]string{
				"http://host/x.tgz": {"context": "\x1f\x8b\x08more"}, "unpacked": df,
			}, opts: map[string]string{"context": "http://host/x.tgz", "contextsubdir": "sub"}},
			definition: "http://host/x.tgz http.filename=context # [internal] load remote build context\n",
			main:       "http://host/x.tgz http.filename=context # [internal] load remote build context\n",
		},
		"inputs": {
			client: &fakeClient{files: map[string]map[string]string{"local://in-df": df}, inputs: map[string]llb.State{
				"context": llb.Local("in-ctx", llb.SessionID("s")), "dockerfile": llb.Local("in-df", llb.SessionID("s")),
			}},
			definition: "local://in-df local.session=s # \n",
			main:       "local://in-ctx local.session=s # \n",
		},
		"input for the context only": {
			client:     &fakeClient{files: local(df), inputs: map[string]llb.State{"context": llb.Local("in-ctx", llb.SessionID("s"))}},
			definition: head,
			main:       "local://in-ctx local.session=s # \n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustOpen(t, c.client)
			if got := sources(c.client.solves[len(c.client.solves)-1].Definition); got != c.definition {
				t.Errorf("definition read from\n%swant\n%s", got, c.definition)
			}
			st, err := b.contexts.Main(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, st); got != c.main {
				t.Errorf("context\n%swant\n%s", got, c.main)
			}
			if want := "Dockerfile"; c.filename == "" && b.definition.Filename != want || c.filename != "" && b.definition.Filename != c.filename {
				t.Errorf("Dockerfile is called %q", b.definition.Filename)
			}
			if b.definition.Definition == nil || b.definition.Language != "Dockerfile" || len(b.definition.Data) == 0 {
				t.Errorf("source map %+v", b.definition.SourceMap)
			}
		})
	}
}

func TestContextSubDir(t *testing.T) {
	c := &fakeClient{files: map[string]map[string]string{"git://host/r.git": {"Dockerfile": "FROM scratch"}}, opts: map[string]string{
		"context": "https://host/r.git", "contextsubdir": "sub/dir",
	}}
	st, err := mustOpen(t, c).contexts.Main(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	def, err := st.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ops, _ := loadOps(def.ToPB())
	cp := ops[len(ops)-1].GetFile().GetActions()[0].GetCopy()
	if cp.GetSrc() != "/sub/dir" || cp.GetDest() != "/" || !cp.GetDirCopyContents() {
		t.Errorf("the sub directory is copied by %v", cp)
	}
}

func TestOpenErrors(t *testing.T) {
	for name, c := range map[string]struct {
		client *fakeClient
		want   string
	}{
		"no Dockerfile":    {&fakeClient{files: local(nil)}, "failed to read dockerfile: open Dockerfile: file does not exist"},
		"no other":         {&fakeClient{files: local(map[string]string{"dockerfile": "x"}), opts: map[string]string{"filename": "x"}}, "failed to read dockerfile: open x: "},
		"too large":        {&fakeClient{files: local(map[string]string{"Dockerfile": strings.Repeat("#", maxFileSize+1)})}, "Dockerfile exceeds maximum allowed size of 16777216 bytes"},
		"ignore too large": {&fakeClient{files: local(map[string]string{"Dockerfile": "x", "Dockerfile.dockerignore": strings.Repeat("#", maxFileSize+1)})}, "Dockerfile.dockerignore exceeds"},
		"bad git":          {&fakeClient{opts: map[string]string{"context": "https://h/r.git?x=y"}}, `unexpected query "x"`},
		"no URL":           {&fakeClient{opts: map[string]string{"context": "./dir"}}, `option context: invalid value "./dir": want a git URL`},
		"bad option":       {&fakeClient{opts: map[string]string{"platform": "%"}}, "option platform"},
		"empty input":      {&fakeClient{inputs: map[string]llb.State{"dockerfile": llb.Scratch()}}, "failed to read dockerfile"},
		"client is gone": {&fakeClient{
			files: local(map[string]string{"Dockerfile": "x"}), broken: map[string]error{"local://dockerfile": errors.New("no active session")},
		}, "load build definition from Dockerfile: no active session"},
		"nothing downloaded": {&fakeClient{opts: map[string]string{"context": "http://h/x"}}, "read build context http://h/x: open context"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, c.client); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestLowerCaseDockerfile(t *testing.T) {
	b := mustOpen(t, &fakeClient{files: local(map[string]string{"sub/dockerfile": "FROM lower"}), opts: map[string]string{"filename": "sub/Dockerfile"}})
	if got := string(b.definition.Data); got != "FROM lower" {
		t.Errorf("read %q", got)
	}
}

func TestIgnored(t *testing.T) {
	own := map[string]string{"Dockerfile": "x", "Dockerfile.dockerignore": "own\n", ".dockerignore": "general\n"}
	for name, c := range map[string]struct {
		client *fakeClient
		want   string
		solves int
	}{
		"none":       {&fakeClient{files: local(map[string]string{"Dockerfile": "x"})}, "", 2},
		"general":    {&fakeClient{files: local(map[string]string{"Dockerfile": "x", ".dockerignore": "# c\n/a\n!b/../c \n\n**/*.o"})}, "a !c **/*.o", 2},
		"specific":   {&fakeClient{files: local(own)}, "own", 1},
		"empty, own": {&fakeClient{files: local(map[string]string{"Dockerfile": "x", "Dockerfile.dockerignore": "", ".dockerignore": "a"})}, "", 1},
		"of an input": {&fakeClient{files: local(own), inputs: map[string]llb.State{
			"context": llb.Local("in", llb.SessionID("s")),
		}}, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustOpen(t, c.client)
			for range 2 {
				got, err := b.contexts.Ignored(context.Background())
				if err != nil || strings.Join(got, " ") != c.want {
					t.Errorf("ignored %q, %v; want %q", got, err, c.want)
				}
			}
			if len(c.client.solves) != c.solves {
				t.Errorf("%d solves, want %d", len(c.client.solves), c.solves)
			}
		})
	}
}

// Where there is no directory of the client, only what needs it fails.
func TestMissingContext(t *testing.T) {
	gone := errors.New("no local sources enabled")
	client := func(dockerfile string) *fakeClient {
		return &fakeClient{files: local(map[string]string{"Dockerfile": dockerfile}), broken: map[string]error{"local://context": gone}}
	}
	if _, err := (Frontend{}).Build(context.Background(), client("FROM scratch")); err != nil {
		t.Errorf("without COPY: %v", err)
	}
	_, err := Frontend{}.Build(context.Background(), client("FROM scratch\nCOPY a /\n"))
	if !errors.Is(err, gone) || !strings.Contains(err.Error(), "load .dockerignore of context: no local sources enabled") {
		t.Errorf("with COPY: %v", err)
	}
}

// A pattern that cannot be used is shown where it is.
func TestIgnoreFileErrors(t *testing.T) {
	for data, want := range map[string]struct {
		line int32
		text string
	}{
		"a\n!\nb":                          {2, `parse .dockerignore: line 2: illegal exclusion pattern`},
		"\ufeffa[\n":                       {1, "line 1: syntax error in pattern"},
		"a\n# [\n\n!x\na[":                 {5, "line 5: syntax error in pattern"},
		"a\n" + strings.Repeat("x", 1<<17): {2, "line 2: bufio.Scanner: token too long"},
	} {
		b := mustOpen(t, &fakeClient{files: local(map[string]string{"Dockerfile": "x", ".dockerignore": data})})
		_, err := b.contexts.Main(context.Background())
		if err == nil || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%.20q: error %v, want %q", data, err, want.text)
			continue
		}
		src := errdefs.Sources(err)
		if len(src) != 1 || src[0].Info.Filename != ".dockerignore" || src[0].Ranges[0].Start.Line != want.line {
			t.Errorf("%.20q: position %v", data, src)
		}
	}
}

func TestNamed(t *testing.T) {
	arm := &ocispecs.Platform{OS: "linux", Architecture: "arm64"}
	paths := func() []llb.LocalOption { return []llb.LocalOption{llb.FollowPaths([]string{"used"})} }
	const config = `{"created":"2020-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Env":["A=b"]}}`
	digested := "@sha256:" + strings.Repeat("a", 64)
	for name, c := range map[string]struct {
		opts   map[string]string
		name   string // asked for; default "base"
		want   lower.NamedOptions
		src    string // sources of the state
		asked  string // metadata
		config bool
		err    string
	}{
		"none": {name: "base"},
		"image": {
			opts:  map[string]string{"context:base": "docker-image://busybox"},
			asked: "docker-image://docker.io/library/busybox:latest mode=default # [context base] load metadata for busybox",
			src:   "docker-image://docker.io/library/busybox:latest platform=linux/amd64 # [context base] busybox\n", config: true,
		},
		"image without slashes, for a platform": {
			opts: map[string]string{"context:base": "docker-image:docker.io/library/none", "context:base::linux/arm64": "docker-image:docker.io/library/busybox:latest"},
			want: lower.NamedOptions{Platform: arm, ResolveMode: llb.ResolveModeForcePull},
			asked: "docker-image://docker.io/library/busybox:latest platform=linux/arm64 mode=pull " +
				"# [context base::linux/arm64] load metadata for docker.io/library/busybox:latest",
			src: "docker-image://docker.io/library/busybox:latest image.resolvemode=pull platform=linux/arm64 " +
				"# [context base::linux/arm64] docker.io/library/busybox:latest\n", config: true,
		},
		"by full name": {
			opts: map[string]string{"context:busybox": "docker-image://busybox"}, name: "docker.io/library/busybox:latest",
			asked: "docker-image://docker.io/library/busybox:latest mode=default # [context busybox] load metadata for busybox",
			src:   "docker-image://docker.io/library/busybox:latest platform=linux/amd64 # [context busybox] busybox\n", config: true,
		},
		"scratch":       {opts: map[string]string{"context:base": "docker-image://scratch"}},
		"unknown image": {opts: map[string]string{"context:base": "docker-image://nope"}, err: "context base: docker-image://docker.io/library/nope:latest: not found"},
		"bad image":     {opts: map[string]string{"context:base": "docker-image://No"}, err: `context base: image "No"`},
		"layout": {
			opts: map[string]string{"context:base": "oci-layout://store" + digested},
			asked: "oci-layout://docker.io/library/base" + digested + " oci.session=session0 oci.store=store " +
				"# [context base] load metadata for docker.io/library/base" + digested,
			src: "oci-layout://docker.io/library/base" + digested + " oci.session=session0 oci.store=store platform=linux/amd64 # [context base] OCI load from client\n", config: true,
		},
		"layout without digest": {opts: map[string]string{"context:base": "oci-layout://store:latest"}, err: "want NAME@DIGEST"},
		"local": {
			opts: map[string]string{"context:base": "local:dir", "sharedkey:localdir:base": "key", "local-sessionid:dir": "s2"},
			want: lower.NamedOptions{Paths: paths},
			src: "local://dir local.excludepatterns=[\"no\"] local.followpaths=[\"used\"] local.session=s2 " +
				"local.sharedkeyhint=context:base-key # [context base] load from client\n",
		},
		"local, bad ignore file": {opts: map[string]string{"context:base": "local:bad"}, err: "parse .dockerignore: line 1"},
		"git": {
			opts: map[string]string{"context:base": "https://h/r.git#v1:sub"},
			src: "git://h/r.git#v1:sub git.authheadersecret=GIT_AUTH_HEADER git.authtokensecret=GIT_AUTH_TOKEN git.fullurl=https://h/r.git " +
				"# [internal] load git source https://h/r.git#v1:sub\n",
		},
		"git protocol": {
			opts: map[string]string{"context:base": "git://h/r"},
			src: "git://h/r git.authheadersecret=GIT_AUTH_HEADER git.authtokensecret=GIT_AUTH_TOKEN git.fullurl=git://h/r " +
				"# [internal] load git source git://h/r\n",
		},
		"git over ssh": {
			opts: map[string]string{"context:base": "me@invalid.:x/r.git"},
			src: "git://invalid./x/r.git git.authheadersecret=GIT_AUTH_HEADER git.authtokensecret=GIT_AUTH_TOKEN git.fullurl=me@invalid.:x/r.git " +
				"git.mountsshsock=default # [internal] load git source me@invalid.:x/r.git\n",
		},
		"bad git": {opts: map[string]string{"context:base": "https://h/r.git?x=1"}, err: `context base: git URL "https://h/r.git?x=1": unexpected query "x"`},
		"http": {
			opts: map[string]string{"context:base": "https://h/f"},
			src:  "https://h/f http.filename=context # [context base] https://h/f\n",
		},
		"input":          {opts: map[string]string{"context:base": "input:in"}, src: "local://in-files local.session=s # \n"},
		"input's config": {opts: map[string]string{"context:base": "input:in", "input-metadata:in": mustJSON(map[string][]byte{"containerimage.config": []byte(config)})}, src: "local://in-files local.session=s # \n", config: true},
		"no such input":  {opts: map[string]string{"context:base": "input:out"}, err: `context base: no input "out"`},
		"bad metadata":   {opts: map[string]string{"context:base": "input:in", "input-metadata:in": "x"}, err: "option input-metadata:in"},
		"converted by policy": {
			opts: map[string]string{"context:base": "docker-image://converted"},
			src: "local://dir local.excludepatterns=[\"no\"] local.session=session0 local.sharedkeyhint=context:base- " +
				"# [context base] load from client\n",
		},
		"converted in a circle": {opts: map[string]string{"context:base": "docker-image://circle"}, err: "source policies turn"},
		"bake's target":         {opts: map[string]string{"context:base": "target:x"}, err: "option context:base: invalid value \"target:x\": want docker-image://REF"},
		"no kind":               {opts: map[string]string{"context:base": "dir"}, err: "want docker-image://REF"},
		"bad name":              {name: "Base", err: `invalid context name "Base"`},
	} {
		t.Run(name, func(t *testing.T) {
			client := &fakeClient{
				opts: c.opts, files: local(map[string]string{"Dockerfile": "FROM scratch"}),
				inputs: map[string]llb.State{"in": llb.Local("in-files", llb.SessionID("s"))},
				images: map[string]string{
					"docker-image://docker.io/library/busybox:latest":   config,
					"oci-layout://docker.io/library/base" + digested:    config,
					"docker-image://docker.io/library/converted:latest": "-> local://dir",
					"docker-image://docker.io/library/circle:latest":    "-> docker-image://circle",
				},
			}
			client.files["local://dir"] = map[string]string{".dockerignore": "no"}
			client.files["local://bad"] = map[string]string{".dockerignore": "!"}
			b := mustOpen(t, client)
			if c.name == "" {
				c.name = "base"
			}
			load, err := b.contexts.Named(c.name, c.want)
			if load == nil {
				if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) || c.src != "" {
					t.Fatalf("no context, error %v, want %q", err, c.err)
				}
				return
			}
			st, img, err := load(context.Background())
			if err != nil || c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || c.err == "" {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			if got := show(t, st); got != c.src {
				t.Errorf("loads\n%swant\n%s", got, c.src)
			}
			if got := strings.Join(client.resolves, "\n"); c.asked != "" && got != c.asked {
				t.Errorf("asked\n%s\nwant\n%s", got, c.asked)
			}
			if (img != nil) != c.config {
				t.Fatalf("config %v", img)
			}
			if img != nil {
				if v, ok, _ := st.GetEnv(context.Background(), "A"); !ok || v != "b" {
					t.Error("the state has not the image's environment")
				}
			}
		})
	}
}
