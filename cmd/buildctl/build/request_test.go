package build

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/spf13/pflag"
	"github.com/tonistiigi/fsutil"
)

// read makes a request of a command line, with text on standard input.
func read(t *testing.T, stdin string, line ...string) (*request, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(p, []byte(stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = in
	t.Cleanup(func() {
		os.Stdin = old
		in.Close()
	})
	f := &flags{}
	set := pflag.NewFlagSet("build", pflag.ContinueOnError)
	f.register(set)
	if err := set.Parse(line); err != nil {
		t.Fatal(err)
	}
	r := f.newRequest(false)
	if set.NArg() > 0 {
		return r, f.docker(t.Context(), r, set.Arg(0))
	}
	return r, f.buildkit(r)
}

// setup makes a directory with files the current one.
func setup(t *testing.T, files ...string) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	os.Unsetenv("SOURCE_DATE_EPOCH")
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte("FROM scratch\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, f fsutil.FS) string {
	t.Helper()
	if f == nil {
		return "none"
	}
	var out []string
	err := f.Walk(t.Context(), "", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestContexts(t *testing.T) {
	setup(t, "ctx/Dockerfile", "ctx/a", "ctx/sub/My.Dockerfile", "other/Dockerfile", "low/dockerfile")
	for _, c := range []struct {
		line                []string
		stdin               string
		context, dockerfile string // files shared; "none": nothing is
		attrs               map[string]string
	}{
		{line: []string{"ctx"}, context: "Dockerfile a sub/My.Dockerfile", dockerfile: "Dockerfile a sub/My.Dockerfile", attrs: map[string]string{"filename": "Dockerfile"}},
		{line: []string{"-f", "ctx/sub/My.Dockerfile", "ctx"}, context: "Dockerfile a sub/My.Dockerfile", dockerfile: "My.Dockerfile", attrs: map[string]string{"filename": "My.Dockerfile"}},
		{line: []string{"-f", "other/Dockerfile", "ctx"}, context: "Dockerfile a sub/My.Dockerfile", dockerfile: "Dockerfile", attrs: map[string]string{"filename": "Dockerfile"}},
		{line: []string{"low"}, context: "dockerfile", dockerfile: "dockerfile", attrs: map[string]string{"filename": "dockerfile"}},
		{line: []string{"-f", "-", "ctx"}, stdin: "FROM x", context: "Dockerfile a sub/My.Dockerfile", dockerfile: "Dockerfile", attrs: map[string]string{"filename": "Dockerfile", "dockerfilekey": "dockerfile"}},
		{line: []string{"-"}, stdin: "FROM x", context: "", dockerfile: "Dockerfile", attrs: map[string]string{"filename": "Dockerfile", "dockerfilekey": "dockerfile"}},
		{line: []string{"https://github.com/u/r.git#b:d"}, context: "none", dockerfile: "none", attrs: map[string]string{"context": "https://github.com/u/r.git#b:d"}},
		{line: []string{"-f", "x/Dockerfile", "git@host:u/r.git"}, context: "none", dockerfile: "none", attrs: map[string]string{"context": "git@host:u/r.git", "filename": "x/Dockerfile"}},
		{line: []string{"-f", "-", "https://host/x.tar"}, stdin: "FROM x", context: "none", dockerfile: "Dockerfile", attrs: map[string]string{"context": "https://host/x.tar", "filename": "Dockerfile", "dockerfilekey": "dockerfile"}},
	} {
		r, err := read(t, c.stdin, c.line...)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if r.opt.Frontend != "dockerfile.v0" || !maps.Equal(r.opt.FrontendAttrs, c.attrs) {
			t.Errorf("%q: frontend %q, options %v", c.line, r.opt.Frontend, r.opt.FrontendAttrs)
		}
		if got := names(t, r.opt.LocalMounts["context"]); got != c.context {
			t.Errorf("%q: context is %q, want %q", c.line, got, c.context)
		}
		if got := names(t, r.opt.LocalMounts["dockerfile"]); got != c.dockerfile {
			t.Errorf("%q: dockerfile is %q, want %q", c.line, got, c.dockerfile)
		}
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := read(t, b.String(), "-f", "sub/Dockerfile", "-")
	if err != nil {
		t.Fatal(err)
	}
	if a := r.opt.FrontendAttrs; !strings.HasPrefix(a["context"], "http://buildkit-session/") || a["filename"] != "sub/Dockerfile" || len(r.opt.LocalMounts) > 0 {
		t.Errorf("an archive on standard input: %v, %v", a, r.opt.LocalMounts)
	}
}

func TestDockerfileFromURL(t *testing.T) {
	setup(t, "ctx/a")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/Dockerfile" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "FROM there")
	}))
	defer s.Close()
	r, err := read(t, "", "-f", s.URL+"/Dockerfile", "ctx")
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.opt.LocalMounts["dockerfile"].Open("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "FROM there" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := read(t, "", "-f", s.URL+"/none", "ctx"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a URL with nothing there: %v", err)
	}
}

func TestOptions(t *testing.T) {
	setup(t, "Dockerfile", "more/x")
	t.Setenv("FROM_ENV", "e")
	r, err := read(t, "", "-t", "a:1", "--tag=b", "--target", "tgt", "--build-arg", "A=1,2", "--build-arg", "FROM_ENV", "--label", "k=v", "--label", "empty",
		"--platform", "linux/amd64,linux/arm64", "--pull", "--no-cache-filter", "s1", "--no-cache-filter", "s2", "--add-host", "h:1.2.3.4", "--shm-size", "1m",
		"--ulimit", "nofile=5", "--ulimit", "nproc=3:4", "--cgroup-parent", "cg", "--network", "host", "-m", "1g", "--memory-swap", "-1", "-c", "5",
		"--build-context", "dir=more", "--build-context", "base=docker-image://alpine", "--build-context", "src=https://host/r.git", "--build-context", "context2=more",
		"--provenance", "true", "--sbom=false", "--allow", "security.insecure", "--opt", "x=y", "--annotation", "i=j", "--cache-from", "img", "--import-cache", "img2", "--cache-to", "type=inline", ".")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"filename": "Dockerfile", "target": "tgt", "build-arg:A": "1,2", "build-arg:FROM_ENV": "e", "label:k": "v", "label:empty": "",
		"platform": "linux/amd64,linux/arm64", "image-resolve-mode": "pull", "no-cache": "s1,s2", "add-hosts": "h=1.2.3.4", "shm-size": "1048576",
		"ulimit": "nofile=5:5,nproc=3:4", "cgroup-parent": "cg", "force-network-mode": "host", "memory": "1073741824", "memswap": "-1", "cpushares": "5",
		"context:dir": "local:dir", "context:base": "docker-image://alpine", "context:src": "https://host/r.git", "context:context2": "local:context2",
		"frontend.caps": "moby.buildkit.frontend.contexts+forward", "attest:provenance": "", "x": "y",
	}
	for k := range r.opt.FrontendAttrs { // what the test's own directory is, if a repository
		if strings.HasPrefix(k, "vcs:") {
			delete(r.opt.FrontendAttrs, k)
		}
	}
	for k, v := range want {
		if got, ok := r.opt.FrontendAttrs[k]; !ok || got != v {
			t.Errorf("%s is %q (%v), want %q", k, got, ok, v)
		}
	}
	if len(r.opt.FrontendAttrs) != len(want) {
		t.Errorf("options: %v", r.opt.FrontendAttrs)
	}
	if got := strings.Join(r.opt.AllowedEntitlements, " "); got != "security.insecure network.host" {
		t.Errorf("entitlements: %s", got)
	}
	e := r.opt.Exports
	if len(e) != 1 || e[0].Type != "image" || e[0].Attrs["name"] != "docker.io/library/a:1,docker.io/library/b:latest" || e[0].Attrs["annotation-manifest.i"] != "j" {
		t.Errorf("exports: %+v", e)
	}
	if len(r.opt.CacheImports) != 2 || r.opt.CacheImports[0].Attrs["ref"] != "img" || r.opt.CacheImports[1].Attrs["ref"] != "img2" || len(r.opt.CacheExports) != 1 || r.opt.CacheExports[0].Type != "inline" {
		t.Errorf("caches: %+v, %+v", r.opt.CacheImports, r.opt.CacheExports)
	}
}

func TestWhereTheResultGoes(t *testing.T) {
	setup(t, "Dockerfile")
	for _, c := range []struct {
		line string
		want string // type and attributes of each output
		note bool
	}{
		{".", "", true},
		{"-t a .", "image name=docker.io/library/a:latest", false},
		{"-q .", "image", false},
		{"--iidfile x .", "image", false},
		{"-o type=cacheonly .", "", false},
		{"-t a --push .", "image name=docker.io/library/a:latest push=true", false},
		{"-t a --push --load .", "image name=docker.io/library/a:latest push=true", false},
		{"-t a -o out .", "local", false},
		{"-t a -o out --load .", "local; image name=docker.io/library/a:latest", false},
		{"-t a -o type=docker .", "image name=docker.io/library/a:latest", false},
		{"-t a -o type=oci,dest=x -o type=registry .", "oci name=docker.io/library/a:latest; image name=docker.io/library/a:latest push=true", false},
		{"--check -t a .", "", false},
		{"--call=outline,format=json -o out .", "", false},
	} {
		r, err := read(t, "", strings.Fields(c.line)...)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		var got []string
		for _, e := range r.opt.Exports {
			s := e.Type
			for _, k := range []string{"name", "push"} {
				if v, ok := e.Attrs[k]; ok {
					s += " " + k + "=" + v
				}
			}
			got = append(got, s)
		}
		if s := strings.Join(got, "; "); s != c.want || r.unexported != c.note {
			t.Errorf("%s: %q, note %v; want %q, %v", c.line, s, r.unexported, c.want, c.note)
		}
	}
}

func TestBuildKitForm(t *testing.T) {
	setup(t, "Dockerfile")
	r, err := read(t, "", "--frontend", "gateway.v0", "--local", "context=.", "--opt", "source=x", "--no-cache", "--output", "type=local,dest=out", "--export-cache", "type=inline", "--import-cache", "ref")
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(r.opt.FrontendAttrs, map[string]string{"source": "x", "no-cache": ""}) || names(t, r.opt.LocalMounts["context"]) != "Dockerfile" || r.opt.Exports[0].OutputDir != "out" {
		t.Errorf("%+v", r.opt)
	}
	if len(r.opt.CacheExports) != 1 || len(r.opt.CacheImports) != 1 {
		t.Errorf("caches: %+v", r.opt)
	}
	if r, err := read(t, "", "--frontend", "dockerfile.v0", "--opt", "requestid=frontend.lint"); err != nil || r.call == nil || r.call.request != "frontend.lint" {
		t.Errorf("a subrequest: %+v, %v", r.call, err)
	}

	def, err := llb.Image("x").Run(llb.Shlex("true")).Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := llb.WriteTo(def, &b); err != nil {
		t.Fatal(err)
	}
	r, err = read(t, b.String(), "--no-cache")
	if err != nil {
		t.Fatal(err)
	}
	if r.def == nil || len(r.def.Def) != len(def.Def) || r.opt.Frontend != "" {
		t.Fatalf("LLB: %+v", r)
	}
	for d, m := range r.def.Metadata {
		if !m.IgnoreCache {
			t.Errorf("%s is looked up in the cache in spite of --no-cache", d)
		}
	}
}

func TestSourceDateEpochComesFromTheEnvironment(t *testing.T) {
	setup(t, "Dockerfile")
	t.Setenv("SOURCE_DATE_EPOCH", "12")
	for _, line := range [][]string{{"."}, {"--frontend", "dockerfile.v0"}} {
		if r, err := read(t, "", line...); err != nil || r.opt.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] != "12" {
			t.Errorf("%q: %v, %v", line, r.opt.FrontendAttrs, err)
		}
	}
	if r, err := read(t, "", "--build-arg", "SOURCE_DATE_EPOCH=7", "."); err != nil || r.opt.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] != "7" {
		t.Errorf("%v, %v", r.opt.FrontendAttrs, err)
	}
}

// TestBadLines holds that what is wrong is named with its flag and value.
func TestBadLines(t *testing.T) {
	setup(t, "Dockerfile", "empty/x", "ctx/other.Dockerfile")
	for _, c := range []struct {
		line  string
		stdin string
		want  []string
	}{
		{line: "", want: []string{"nothing to build", "CONTEXT", "--frontend"}},
		{line: "-t a", stdin: "x", want: []string{"--tag", "CONTEXT"}},
		{line: "--frontend dockerfile.v0 -f x", want: []string{"--file", "CONTEXT"}},
		{line: "--frontend dockerfile.v0 .", want: []string{"--frontend", `"."`}},
		{line: "--local a=. .", want: []string{"--local", `"."`}},
		{line: "/nope", want: []string{"/nope", "want a directory"}},
		{line: "Dockerfile", want: []string{`"Dockerfile" is a file`}},
		{line: "empty", want: []string{"empty/Dockerfile", "--file"}},
		{line: "-f nope .", want: []string{`--file "nope"`}},
		{line: "-f other.Dockerfile ctx", want: []string{"current directory", "ctx/other.Dockerfile"}},
		{line: "-", stdin: "", want: []string{"empty"}},
		{line: "-f - -", stdin: "x", want: []string{"both"}},
		{line: "-f x -", stdin: "FROM x", want: []string{`--file "x"`, "archive"}},
		{line: "-t UPPER .", want: []string{"--tag", `"UPPER"`, "lower case"}},
		{line: "--build-arg =x .", want: []string{"--build-arg", `"=x"`}},
		{line: "--label =x .", want: []string{"--label", `"=x"`}},
		{line: "--secret id=x,src=/nope .", want: []string{"--secret", `"id=x,src=/nope"`}},
		{line: "--ssh x=/nope .", want: []string{"--ssh", "/nope"}},
		{line: "--allow all .", want: []string{"--allow", `"all"`, "network.host"}},
		{line: "--network bridge .", want: []string{"--network", `"bridge"`, "host"}},
		{line: "--platform linux/x/y/z/w .", want: []string{"--platform", "linux/x/y/z/w"}},
		{line: "--shm-size lots .", want: []string{"--shm-size", `"lots"`, "64m"}},
		{line: "--memory lots .", want: []string{"--memory", `"lots"`}},
		{line: "--ulimit x .", want: []string{"--ulimit", `"x"`}},
		{line: "--add-host x .", want: []string{"--add-host", `"x"`}},
		{line: "--push .", want: []string{"no name", "-t NAME"}},
		{line: "-o type=nope .", want: []string{"--output", `"nope"`}},
		{line: "--cache-to type=local .", want: []string{"--cache-to", "dest=DIR"}},
		{line: "--cache-from type=local .", want: []string{"--cache-from", "src=DIR"}},
		{line: "--no-cache --no-cache-filter a .", want: []string{"--no-cache-filter", "--no-cache"}},
		{line: "--call nope .", want: []string{"--call", `"nope"`, "outline"}},
		{line: "--call check,format=yaml .", want: []string{"--call", "format=yaml"}},
		{line: "--check --call outline .", want: []string{"--call", "--check"}},
		{line: "--attest type=x .", want: []string{"--attest", `"x"`}},
		{line: "--annotation x .", want: []string{"--annotation", `"x"`}},
		{line: "--build-context x .", want: []string{"--build-context", `"x"`}},
		{line: "--build-context x=/nope .", want: []string{"--build-context", `"x=/nope"`, "docker-image://"}},
		{line: "--build-context x=oci-layout://empty .", want: []string{"--build-context", "no OCI layout"}},
		{line: "--build-context x=Dockerfile .", want: []string{"--build-context", "is a file"}},
		{line: "--opt x .", want: []string{"--opt", `"x"`}},
		{line: "--oci-layout x .", want: []string{"--oci-layout", `"x"`}},
		{line: "--source-policy-file Dockerfile .", want: []string{"--source-policy-file", "Dockerfile"}},
		{line: "--registry-auth-tlscontext x=y .", want: []string{"--registry-auth-tlscontext", `"x"`}},
	} {
		_, err := read(t, c.stdin, strings.Fields(c.line)...)
		if err == nil {
			t.Errorf("%s: no error", c.line)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: does not say %s: %v", c.line, w, err)
			}
		}
	}
}

func TestLayoutContext(t *testing.T) {
	setup(t, "Dockerfile")
	const one, two = "sha256:1111111111111111111111111111111111111111111111111111111111111111", "sha256:2222222222222222222222222222222222222222222222222222222222222222"
	index := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + one + `","size":1,"annotations":{"org.opencontainers.image.ref.name":"latest"}},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + two + `","size":1,"annotations":{"org.opencontainers.image.ref.name":"v2"}}]}`
	for name, text := range map[string]string{"lay/index.json": index, "lay/oci-layout": `{"imageLayoutVersion":"1.0.0"}`} {
		if err := os.MkdirAll("lay", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for value, want := range map[string]string{
		"b=oci-layout://lay": ":latest@" + one, "b=oci-layout://lay:v2": ":v2@" + two, "b=oci-layout://lay@" + two: ":latest@" + two, "B/b=oci-layout://./lay:v2": ":v2@" + two,
	} {
		r, err := read(t, "", "--build-context", value, ".")
		if err != nil {
			t.Errorf("%s: %v", value, err)
			continue
		}
		name, _, _ := strings.Cut(value, "=")
		got := r.opt.FrontendAttrs["context:"+name]
		id, rest, _ := strings.Cut(strings.TrimPrefix(got, "oci-layout://"), ":")
		if ":"+rest != want || r.opt.OCIStores[id] == nil {
			t.Errorf("%s: %s, stores %v", value, got, r.opt.OCIStores)
		}
	}
	if _, err := read(t, "", "--build-context", "b=oci-layout://lay:v3", "."); err == nil || !strings.Contains(err.Error(), `"v3"`) {
		t.Errorf("a tag that is not there: %v", err)
	}
}
