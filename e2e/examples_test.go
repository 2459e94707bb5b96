package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestExamples builds everything in examples/ on bases made of Debian's packages
// and runs what comes out with runc.
func TestExamples(t *testing.T) {
	examples, err := filepath.Abs("../examples")
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t)
	for name, script := range map[string]string{"busybox:latest": "make-busybox", "debian:bookworm": "make-debian"} {
		tar := filepath.Join(t.TempDir(), "base.tar")
		tool(t, filepath.Join(examples, script), tar)
		d.ctl("image", "import", name, tar)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("the signing key"), 0o600); err != nil {
		t.Fatal(err)
	}
	build := func(name string, args ...string) run {
		t.Helper()
		return d.ctl(append([]string{"build", "--progress=plain", "-t", name}, args...)...)
	}
	dir := func(name string) string { return filepath.Join(examples, name) }

	if r := build("workdir", dir("workdir")); !strings.Contains(r.Err, " /a/b/c\n") {
		t.Errorf("WORKDIR /a, b, c and RUN pwd print\n%s", r.Err)
	}
	build("memcached", dir("memcached"))
	t.Run("memcached answers", func(t *testing.T) { memcachedAnswers(t, d) })

	build("webapp", "--secret", "id=signing-key,src="+key, dir("webapp"))
	build("webapp-child", dir("webapp-child"))
	t.Run("webapp serves", func(t *testing.T) {
		b := d.bundle(t, "webapp-child")
		b.start(t)
		if got := b.exec(t, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"); !strings.Contains(got, "A child page") {
			t.Errorf("the child of webapp serves %q", got)
		}
		if got := strings.TrimSpace(b.exec(t, "id", "-u")); got != "10001" {
			t.Errorf("it runs as user %s", got)
		}
	})

	build("toolchain", dir("toolchain"))
	for name, want := range map[string]string{
		"go-service": "hello, ci (version dev)\n", "c-program": "hello\n", "python-app": "debian", "distroless": "hello from user 65532, sqrt(2) is 1.4142\n", "heredocs": "retries = 3\n",
	} {
		build(name, dir(name))
		var args []string
		if name == "go-service" {
			args = []string{"/service", "ci"}
		}
		if got := d.bundle(t, name).run(t, args...); !strings.Contains(got, want) {
			t.Errorf("%s prints %q, want %q", name, got, want)
		}
	}
	build("node-app", dir("node-app"))
	build("static-site", dir("static-site"))
	build("monorepo", "--build-context", "lib="+dir("monorepo/lib"), "--build-context", "web="+dir("monorepo/web"), dir("monorepo/api"))
	build("cross", "--platform", "linux/amd64,linux/arm64,linux/arm/v7", dir("cross"))
	if got := d.bundle(t, "cross").run(t); got != "linux/amd64\n" {
		t.Errorf("cross prints %q", got)
	}
}

func memcachedAnswers(t *testing.T, d *daemon) {
	b := d.bundle(t, "memcached")
	b.start(t)
	ask := `exec 3<>/dev/tcp/127.0.0.1/11211 && echo version >&3 && head -n 1 <&3`
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("runc", "--root", b.state, "exec", b.id, "bash", "-c", ask).Output()
		if got = string(out); err == nil {
			break
		}
	}
	if !strings.HasPrefix(got, "VERSION 1.") {
		t.Errorf("memcached answers %q to version", got)
	}
}

// bundle is an image unpacked by umoci, to be run by runc.
type bundle struct{ dir, id, state string }

// bundle exports an image of the store and unpacks it as somebody else would.
func (d *daemon) bundle(t *testing.T, image string) *bundle {
	t.Helper()
	tmp := t.TempDir()
	archive, layout := filepath.Join(tmp, "image.tar"), filepath.Join(tmp, "layout")
	d.ctl("build", "-o", "type=oci,dest="+archive, buildContext(t, map[string]string{"Dockerfile": "FROM " + image + "\n"}))
	tool(t, "skopeo", "copy", "oci-archive:"+archive, "oci:"+layout+":it")
	b := &bundle{dir: filepath.Join(tmp, "bundle"), id: "buildd-e2e-" + filepath.Base(tmp) + filepath.Base(filepath.Dir(tmp)), state: filepath.Join(tmp, "runc")}
	tool(t, "umoci", "unpack", "--image", layout+":it", b.dir)
	b.edit(t, func(s *specs.Spec) { s.Process.Terminal = false })
	return b
}

func (b *bundle) edit(t *testing.T, change func(*specs.Spec)) {
	t.Helper()
	path := filepath.Join(b.dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	change(&s)
	if data, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs the image's command, or args, and returns its output.
func (b *bundle) run(t *testing.T, args ...string) string {
	t.Helper()
	if len(args) > 0 {
		b.edit(t, func(s *specs.Spec) { s.Process.Args = args })
	}
	cmd := exec.Command("runc", "--root", b.state, "run", "--bundle", b.dir, b.id)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("runc: %v\n%s%s", err, out.String(), errs.String())
	}
	return out.String()
}

// start runs the image's command in the background until the test ends.
func (b *bundle) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command("runc", "--root", b.state, "run", "--detach", "--bundle", b.dir, b.id)
	log, err := os.Create(filepath.Join(b.state + ".log")) // a pipe would keep Run waiting for the container
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("runc: %v\n%s", err, text)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("runc", "--root", b.state, "delete", "--force", b.id).CombinedOutput(); err != nil {
			t.Errorf("runc delete: %v\n%s", err, out)
		}
	})
}

// exec runs a command in a started bundle.
func (b *bundle) exec(t *testing.T, args ...string) string {
	t.Helper()
	return tool(t, "runc", append([]string{"--root", b.state, "exec", b.id}, args...)...)
}
