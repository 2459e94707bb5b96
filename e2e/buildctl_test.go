package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"github.com/moby/buildkit/client/llb"
	"golang.org/x/crypto/ssh"
)

// inputOK runs buildctl with standard input, which must succeed.
func (d *daemon) inputOK(t *testing.T, stdin string, args ...string) run {
	t.Helper()
	r := d.input(t.Context(), stdin, args...)
	if r.Exit != 0 {
		t.Fatalf("buildctl %s: exit %d\n%s%s", strings.Join(args, " "), r.Exit, r.Out, r.Err)
	}
	return r
}

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// archiveOf makes a tar archive of files.
func archiveOf(t *testing.T, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, text := range files {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestBuildctlContexts builds the same from every place that a context and a
// Dockerfile can come from.
func TestBuildctlContexts(t *testing.T) {
	d := startDaemon(t)
	const dockerfile = "FROM scratch\nCOPY a /\n"
	files := map[string]string{"Dockerfile": dockerfile, "a": "text", "b": "more", "sub/Dockerfile": "FROM scratch\nCOPY a b /\n", "c.Dockerfile": "FROM scratch\nCOPY --from=more x /a\n"}
	ctx := buildContext(t, files)
	elsewhere := buildContext(t, map[string]string{"Dockerfile": dockerfile, "x": "text"})
	plain := archiveOf(t, files)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/context.tar.gz":
			_, _ = io.WriteString(w, zipped(t, plain))
		case "/Dockerfile":
			_, _ = io.WriteString(w, dockerfile)
		default:
			http.NotFound(w, r)
		}
	}))
	defer web.Close()
	repo := startGit(t, files)
	for name, c := range map[string]struct {
		stdin string
		args  []string
	}{
		"directory":                     {args: []string{ctx}},
		"file in a directory":           {args: []string{"-f", filepath.Join(ctx, "sub/Dockerfile"), ctx}},
		"file outside the directory":    {args: []string{"-f", filepath.Join(elsewhere, "Dockerfile"), ctx}},
		"file from standard input":      {stdin: dockerfile, args: []string{"-f", "-", ctx}},
		"file from a URL":               {args: []string{"-f", web.URL + "/Dockerfile", ctx}},
		"archive from standard input":   {stdin: plain, args: []string{"-"}},
		"compressed":                    {stdin: zipped(t, plain), args: []string{"-"}},
		"archive, another file":         {stdin: plain, args: []string{"-f", "sub/Dockerfile", "-"}},
		"archive from a URL":            {args: []string{web.URL + "/context.tar.gz"}},
		"git":                           {args: []string{repo + "#main"}},
		"git, another file":             {args: []string{"-f", "sub/Dockerfile", repo}},
		"git, file from standard input": {stdin: dockerfile, args: []string{"-f", "-", repo}},
		"named context":                 {args: []string{"-f", filepath.Join(ctx, "c.Dockerfile"), "--build-context", "more=" + elsewhere, ctx}},
		"only a file":                   {stdin: "FROM scratch\nCOPY --from=more x /a\n", args: []string{"--build-context", "more=" + elsewhere, "-"}},
		"BuildKit's form":               {args: []string{"--frontend", "dockerfile.v0", "--local", "context=" + ctx, "--local", "dockerfile=" + elsewhere}},
	} {
		out := t.TempDir()
		r := d.input(t.Context(), c.stdin, append([]string{"build", "-o", "type=local,dest=" + out}, c.args...)...)
		if r.Exit != 0 {
			t.Errorf("%s: exit %d\n%s", name, r.Exit, r.Err)
			continue
		}
		if got := readFile(t, out, "a"); got != "text" {
			t.Errorf("%s: /a holds %q", name, got)
		}
	}
}

// startGit serves a repository with files on the branch main.
func startGit(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := buildContext(t, files)
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"}, {"add", "."}, {"-c", "user.name=n", "-c", "user.email=e@host", "commit", "-q", "-m", "m"},
	} {
		tool(t, "git", append([]string{"-C", dir}, args...)...)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	cmd := exec.Command("git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", fmt.Sprintf("--port=%d", addr.Port), "--base-path="+dir, dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr.String()); err == nil {
			c.Close()
			return fmt.Sprintf("git://%s/.git", addr)
		}
		if time.Now().After(end) {
			t.Fatal("git daemon does not listen")
		}
	}
}

func TestBuildctlOutputs(t *testing.T) {
	d := startDaemon(t)
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /dir/a\n", "a": "text", "bad": "FROM scratch\nCOPY none /\n"})
	out := t.TempDir()
	p := func(n string) string { return filepath.Join(out, n) }
	if err := os.WriteFile(p("old.tar"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}

	d.ctl("build", "-t", "x:1", "-o", p("short"), "-o", "type=tar,dest="+p("t.tar"), "-o", "type=oci,dest="+p("oci.tar"), "-o", "type=oci,tar=false,dest="+p("layout"),
		"-o", "type=docker,dest="+p("docker.tar"), "--load", "--metadata-file", p("m.json"), "--iidfile", p("id"), ctx)
	if got := readFile(t, out, "short/dir/a"); got != "text" {
		t.Errorf("local: %q", got)
	}
	if list := tool(t, "tar", "tf", p("t.tar")); !strings.Contains(list, "dir/a") {
		t.Errorf("tar: %s", list)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(readFile(t, p("m.json"))), &m); err != nil {
		t.Fatal(err)
	}
	id := readFile(t, p("id"))
	if m["containerimage.digest"] != id || !strings.HasPrefix(id, "sha256:") {
		t.Errorf("metadata %v, image %q", m, id)
	}
	for _, ref := range []string{"oci-archive:" + p("oci.tar"), "oci:" + p("layout"), "docker-archive:" + p("docker.tar")} {
		tool(t, "skopeo", "inspect", "--config", ref)
	}
	if r := d.ctl("image", "inspect", "--format", "{{.Digest}}", "x:1"); strings.TrimSpace(r.Out) != id {
		t.Errorf("the store has %q, want %q", r.Out, id)
	}

	r := d.ctl("build", "-o", "-", ctx)
	if h, err := tar.NewReader(strings.NewReader(r.Out)).Next(); err != nil || !strings.HasPrefix(h.Name, "dir") {
		t.Errorf("standard output: %v, %v", h, err)
	}
	if r := d.ctl("build", "-q", "-t", "y", ctx); strings.TrimSpace(r.Out) != id || r.Err != "" {
		t.Errorf("quiet: %q, %q", r.Out, r.Err)
	}
	if r := d.fails([]string{"/none"}, "build", "-q", "-f", filepath.Join(ctx, "bad"), ctx); r.Out != "" || strings.Contains(r.Err, "#1 ") {
		t.Errorf("quiet failure: %q, %q", r.Out, r.Err)
	}
	if r := d.ctl("build", ctx); !strings.Contains(r.Err, "note: the result is in the build cache only") {
		t.Errorf("without an output: %s", r.Err)
	}
	d.fails([]string{"/none"}, "build", "-f", filepath.Join(ctx, "bad"), "-o", "type=tar,dest="+p("old.tar"), ctx)
	if got := readFile(t, p("old.tar")); got != "old" {
		t.Errorf("a build that failed left %q", got)
	}
	d.fails([]string{"--output", "is not a directory"}, "build", "-o", p("t.tar"), ctx)
}

func TestBuildctlOptions(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("E2E_FROM_ENV", "by env")
	ctx := buildContext(t, map[string]string{"Dockerfile": `FROM busybox AS first
ARG A
ARG E2E_FROM_ENV
RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN --mount=type=ssh \
    [ "$A" = "1 2" ] && [ "$E2E_FROM_ENV" = "by env" ] && [ "$(cat /run/secrets/file)" = s3cret ] && [ "$TOKEN" = "by env" ] && [ -S "$SSH_AUTH_SOCK" ] && \
    grep -q "1.2.3.4.*myhost" /etc/hosts && [ "$(df -k /dev/shm | awk 'NR==2{print $2}')" = 8192 ] && [ "$(ulimit -n)" = 123 ] && touch /ok
FROM busybox
RUN echo the reason; false
`})
	args := []string{"build", "--target", "first", "--build-arg", "A=1 2", "--build-arg", "E2E_FROM_ENV", "--secret", "id=file,src=" + filepath.Join(dir, "token"),
		"--secret", "id=env,env=E2E_FROM_ENV", "--ssh", "default=" + key, "--add-host", "myhost:1.2.3.4", "--shm-size", "8m", "--ulimit", "nofile=123:123", ctx}
	d.ctl(append(args, "--label", "l=v", "-t", "opts")...)
	var got []struct {
		Manifests []struct {
			Config struct {
				Config struct{ Labels map[string]string }
			}
		}
	}
	if err := json.Unmarshal([]byte(d.ctl("image", "inspect", "opts").Out), &got); err != nil {
		t.Fatal(err)
	}
	if got[0].Manifests[0].Config.Config.Labels["l"] != "v" {
		t.Errorf("labels: %+v", got)
	}
	d.fails([]string{"\nthe reason\n", "Dockerfile:8"}, "build", "-q", ctx)
	r := d.ctl(append(args, "--progress", "plain", "--no-cache")...)
	if ran := r.ran(); len(ran) != 1 || !strings.Contains(ran[0], "RUN --mount") {
		t.Errorf("--no-cache ran %q:\n%s", ran, r.Err)
	}
}

func TestBuildctlProgress(t *testing.T) {
	d := startDaemon(t)
	ctx := buildContext(t, map[string]string{"Dockerfile": "from scratch\nCOPY a /\nLABEL a b\n", "a": ""})
	r := d.ctl("build", "--progress=plain", ctx)
	for _, want := range []string{"#1 ", "COPY a /", "2 warnings found", " - ConsistentInstructionCasing"} {
		if !strings.Contains(r.Err, want) {
			t.Errorf("plain: no %q in\n%s", want, r.Err)
		}
	}
	if r := d.ctl("--debug", "build", "--no-cache", ctx); !strings.Contains(r.Err, ">>> LABEL a b") {
		t.Errorf("--debug: no source of the warning in\n%s", r.Err)
	}
	if r := d.ctl("build", "--progress=quiet", ctx); r.Err+r.Out != "" {
		t.Errorf("quiet: %q, %q", r.Out, r.Err)
	}
	r = d.ctl("build", "--progress=rawjson", ctx)
	for l := range strings.Lines(strings.TrimSpace(r.Err)) {
		if !json.Valid([]byte(l)) {
			t.Errorf("rawjson: %q", l)
		}
	}
	d.fails([]string{"--progress", `"fancy"`, "rawjson"}, "build", "--progress=fancy", ctx)

	trace := filepath.Join(t.TempDir(), "trace")
	ref := filepath.Join(t.TempDir(), "ref")
	d.ctl("build", "--trace", trace, "--ref-file", ref, ctx)
	if !strings.Contains(readFile(t, trace), "COPY a /") {
		t.Errorf("trace: %s", readFile(t, trace))
	}
	if r := d.ctl("debug", "logs", "--progress", "plain", readFile(t, ref)); !strings.Contains(r.Out, "COPY a /") {
		t.Errorf("debug logs: %q, %q", r.Out, r.Err)
	}

	if out := d.onTerminal(t, "build", ctx); !strings.Contains(out, "[+] Building") {
		t.Errorf("on a terminal: %q", out)
	}
}

// onTerminal runs buildctl with a terminal for its output.
func (d *daemon) onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	c, name, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Resize(console.WinSize{Width: 100, Height: 30}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "buildctl"), append([]string{"--addr", d.Addr}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(&out, c)
		close(done)
	}()
	err = cmd.Run()
	tty.Close()
	<-done
	if err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	return out.String()
}

func TestBuildctlErrors(t *testing.T) {
	d := startDaemon(t)
	ctx := buildContext(t, map[string]string{"a": "", "unknown": "FROM scratch\nCOPI a /\n", "missing": "FROM scratch\n\nCOPY none /\n", "stage": "FROM nothing AS x\nFROM y\n"})
	d.fails([]string{"unknown:2\n", ">>> COPI a /", "COPI"}, "build", "-f", filepath.Join(ctx, "unknown"), ctx)
	d.fails([]string{"missing:3\n", ">>> COPY none /", "/none"}, "build", "-f", filepath.Join(ctx, "missing"), ctx)
	d.fails([]string{"nope"}, "build", "--target", "nope", "-f", filepath.Join(ctx, "missing"), ctx)
	d.fails([]string{"want a directory"}, "build", filepath.Join(ctx, "nowhere"))
	d.fails([]string{"unknown flag", "--bogus"}, "build", "--bogus", ctx)
	d.fails([]string{"unknown command"}, "bild", ctx)
	d.fails([]string{"2 contexts"}, "build", ctx, ctx)
	d.fails([]string{"nothing to build"}, "build")
	r := d.try(t.Context(), "--addr", "unix:///nowhere/s", "du")
	if r.Exit != 1 || !strings.Contains(r.Err, "unix:///nowhere/s") {
		t.Errorf("no daemon: %+v", r)
	}
}

func TestBuildctlIsInterrupted(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN sleep 4321\n"})
	c, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*time.Second, cancel)
	start := time.Now()
	r := d.try(c, "build", ctx)
	if r.Exit != 130 || !strings.Contains(r.Err, "error: canceled") || time.Since(start) > 15*time.Second {
		t.Errorf("after %s: exit %d\n%s", time.Since(start), r.Exit, r.Err)
	}
	for end := time.Now().Add(10 * time.Second); processes("sleep\x004321") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the step runs on")
		}
	}
}

func TestBuildctlCalls(t *testing.T) {
	d := startDaemon(t)
	ctx := buildContext(t, map[string]string{
		"good": "# the default\nFROM scratch AS last\nCOPY a /\n", "bad": "from scratch AS first\nARG NAME=value\nCOPY a /\nFROM first\n", "broken": "FROM scratch\nCOPI\n", "a": "",
	})
	call := func(exit int, want string, args ...string) run {
		t.Helper()
		r := d.try(t.Context(), append(append([]string{"build"}, args...), ctx)...)
		if r.Exit != exit || !strings.Contains(r.Out, want) {
			t.Errorf("%q: exit %d, want %d and %q in\n%s%s", args, r.Exit, exit, want, r.Out, r.Err)
		}
		return r
	}
	f := func(n string) string { return filepath.Join(ctx, n) }
	call(0, "Check complete, no warnings found", "--check", "-f", f("good"))
	call(1, "WARNING: ConsistentInstructionCasing", "--check", "-f", f("bad"))
	call(1, "COPI", "--check", "-f", f("broken"))
	if r := call(1, `"ruleName"`, "--call=check,format=json", "-f", f("bad")); !json.Valid([]byte(r.Out)) {
		t.Errorf("no JSON: %s", r.Out)
	}
	call(0, "last (default)", "--call=targets", "-f", f("good"))
	call(0, "NAME", "--call=outline", "-f", f("bad"))
	if r := d.ctl("build", "--frontend=dockerfile.v0", "--opt=requestid=frontend.targets", "--opt=filename=bad", "--local=context="+ctx, "--local=dockerfile="+ctx); !strings.Contains(r.Out, "first") {
		t.Errorf("in BuildKit's form: %s", r.Out)
	}
}

func TestBuildctlLLB(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	def, err := llb.Image("docker.io/library/busybox:latest").Run(llb.Shlex(`sh -c "echo hi > /out/x"`)).AddMount("/out", llb.Scratch()).Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := llb.WriteTo(def, &b); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	d.inputOK(t, b.String(), "build", "--output", "type=local,dest="+out)
	if got := readFile(t, out, "x"); got != "hi\n" {
		t.Errorf("x holds %q", got)
	}
	if r := d.inputOK(t, b.String(), "build", "--no-cache", "--progress=plain"); strings.Count(r.Err, "CACHED") > 1 {
		t.Errorf("--no-cache:\n%s", r.Err)
	}
	if r := d.inputOK(t, b.String(), "debug", "dump-llb"); !strings.Contains(r.Out, "echo hi") {
		t.Errorf("dump-llb: %s", r.Out)
	}
	if r := d.inputOK(t, b.String(), "debug", "dump-llb", "--dot"); !strings.HasPrefix(r.Out, "digraph {") {
		t.Errorf("dump-llb --dot: %s", r.Out)
	}
}

func TestBuildctlUsage(t *testing.T) {
	d := startDaemon(t)
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": strings.Repeat("x", 100000)})
	d.ctl("build", ctx)
	if r := d.ctl("du"); !strings.Contains(r.Out, "RECLAIMABLE") || !strings.Contains(r.Out, "Total:") {
		t.Errorf("du: %s", r.Out)
	}
	if r := d.ctl("du", "--verbose"); !strings.Contains(r.Out, "Created at:") {
		t.Errorf("du --verbose: %s", r.Out)
	}
	var records []struct{ ID string }
	if err := json.Unmarshal([]byte(d.ctl("du", "--format", "{{json .}}").Out), &records); err != nil || len(records) == 0 {
		t.Errorf("du --format: %v, %v", records, err)
	}
	if r := d.ctl("prune", "--all"); !strings.Contains(r.Out, "Total:") {
		t.Errorf("prune: %s", r.Out)
	}
	if r := d.ctl("du", "--format", "json"); strings.TrimSpace(r.Out) != "null" && strings.TrimSpace(r.Out) != "[]" {
		t.Errorf("after prune: %s", r.Out)
	}
	if r := d.ctl("debug", "workers"); !strings.Contains(r.Out, "linux/") {
		t.Errorf("workers: %s", r.Out)
	}
	if r := d.ctl("debug", "workers", "-v"); !strings.Contains(r.Out, "Labels:") {
		t.Errorf("workers -v: %s", r.Out)
	}
	if r := d.ctl("debug", "info"); !strings.Contains(r.Out, "buildd") {
		t.Errorf("info: %s", r.Out)
	}
	ref := strings.Fields(d.ctl("debug", "histories", "--format", "{{.Record.Ref}}").Out)
	if len(ref) != 1 {
		t.Fatalf("histories: %q", ref)
	}
	d.ctl("debug", "ctl", "--pin", ref[0])
	if r := d.ctl("prune-histories"); strings.Contains(r.Out, ref[0]) {
		t.Errorf("a pinned record was removed: %s", r.Out)
	}
	d.ctl("debug", "ctl", "--unpin", ref[0])
	if r := d.ctl("prune-histories"); !strings.Contains(r.Out, ref[0]) {
		t.Errorf("the record was not removed: %s", r.Out)
	}
}
