package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inspected is what "buildctl image inspect" shows of an image.
type inspected struct {
	Name, Digest string
	Platforms    []string
	Manifests    []struct {
		Platform string
		Layers   []struct{ Digest string }
		Config   json.RawMessage
	}
}

func (d *daemon) inspect(name string) inspected {
	d.t.Helper()
	var out []inspected
	if err := json.Unmarshal([]byte(d.ctl("image", "inspect", name).Out), &out); err != nil || len(out) != 1 {
		d.t.Fatalf("inspect %s: %v, %v", name, out, err)
	}
	return out[0]
}

// TestImageImport takes a root file system apart and looks at it from a step.
func TestImageImport(t *testing.T) {
	d := startDaemon(t)
	root := t.TempDir()
	tool(t, "tar", "-C", root, "-xf", busyboxTar(t))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := filepath.Join(root, "f")
	must(os.WriteFile(p, []byte("x"), 0o600))
	must(os.Chown(p, 11, 12))
	must(os.Chmod(p, os.ModeSetuid|0o750))
	must(os.Link(p, filepath.Join(root, "g")))
	must(unix.Setxattr(p, "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(unix.Mkfifo(filepath.Join(root, "fifo"), 0o644))

	d.ctl("image", "import", "--change", `CMD ["sh"]`, "--change", "ENV K=v", "from-dir", root)
	archive := filepath.Join(t.TempDir(), "root.tar")
	tool(t, "tar", "--xattrs", "--xattrs-include=*", "-C", root, "-cf", archive, ".")
	d.ctl("image", "import", "from-tar:1", archive)
	tool(t, "gzip", "-k", archive)
	d.inputOK(t, readFile(t, archive+".gz"), "image", "import", "from-stdin:1", "-")

	ctx := buildContext(t, map[string]string{"Dockerfile": `ARG BASE
FROM $BASE
RUN [ "$(stat -c '%a %u %g %h' /f)" = "4750 11 12 2" ] && [ /f -ef /g ] && [ -p /fifo ]
`})
	for _, base := range []string{"from-dir", "from-tar:1", "from-stdin:1"} {
		d.ctl("build", "--build-arg", "BASE="+base, ctx)
	}
	img := d.inspect("from-dir")
	if !strings.Contains(string(img.Manifests[0].Config), `"K=v"`) || !strings.Contains(string(img.Manifests[0].Config), `"sh"`) {
		t.Errorf("configuration: %s", img.Manifests[0].Config)
	}
	out := filepath.Join(t.TempDir(), "out.tar")
	d.inputOK(t, "FROM from-dir", "build", "-o", "type=tar,dest="+out, "-")
	if list := tool(t, "tar", "--xattrs", "--xattrs-include=*", "-tvvf", out, "f"); !strings.Contains(list, "security.capability") {
		t.Errorf("the capability is lost: %s", list)
	}
	again := d.inspect("from-tar:1").Digest
	d.ctl("image", "import", "from-tar:1", archive)
	if got := d.inspect("from-tar:1").Digest; got != again {
		t.Errorf("the same archive makes %s, then %s", again, got)
	}
	d.fails([]string{"no tar archive"}, "image", "import", "x", os.Args[0])
	d.fails([]string{"lower case"}, "image", "import", "X", archive)
}

func TestImageStore(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /f\n", "amd64": "one", "arm64": "two"})
	dir := t.TempDir()
	p := func(n string) string { return filepath.Join(dir, n) }
	d.ctl("build", "-t", "multi:1", "-t", "multi:2", "--platform", "linux/amd64,linux/arm64", "-o", "type=oci,dest="+p("multi.tar")+",compression=zstd", "--load", ctx)

	list := strings.Fields(d.ctl("image", "ls", "-q").Out)
	if want := []string{"docker.io/library/busybox:latest", "docker.io/library/multi:1", "docker.io/library/multi:2"}; !slices.Equal(list, want) {
		t.Fatalf("ls: %q", list)
	}
	built := d.inspect("multi:1")
	if !slices.Equal(built.Platforms, []string{"linux/amd64", "linux/arm64"}) || len(built.Manifests) != 2 {
		t.Errorf("multi: %+v", built)
	}
	if r := d.ctl("image", "ls"); !strings.Contains(r.Out, "linux/amd64,linux/arm64") {
		t.Errorf("ls: %s", r.Out)
	}
	if r := d.ctl("image", "inspect", "--text", "multi:1"); !strings.Contains(r.Out, "Platform:") || !strings.Contains(r.Out, "linux/arm64") {
		t.Errorf("inspect --text: %s", r.Out)
	}
	busybox := d.inspect("busybox")
	d.ctl("image", "save", "busybox", p("saved.tar"))
	d.ctl("image", "save", "--type", "docker", "busybox", p("docker.tar"))
	d.ctl("image", "rm", "busybox", "multi:1", "multi:2")
	if r := d.ctl("image", "ls", "-q"); r.Out != "" {
		t.Errorf("after rm: %s", r.Out)
	}
	d.fails([]string{"multi:1"}, "image", "rm", "multi:1")
	d.fails([]string{"multi:1"}, "image", "inspect", "multi:1")
	d.fails([]string{"multi:1"}, "image", "save", "multi:1", p("none"))

	// Loading gives back what was there, to the byte.
	d.ctl("prune", "--all")
	d.ctl("image", "load", p("multi.tar"))
	for _, n := range []string{"multi:1", "multi:2"} {
		got := d.inspect(n)
		for i, m := range got.Manifests {
			if string(m.Config) != string(built.Manifests[i].Config) || m.Platform != built.Manifests[i].Platform {
				t.Errorf("%s %s: configuration\n%s\nwas\n%s", n, m.Platform, m.Config, built.Manifests[i].Config)
			}
		}
	}
	for _, a := range []string{"saved.tar", "docker.tar"} {
		d.ctl("image", "load", p(a))
		got := d.inspect("busybox")
		if string(got.Manifests[0].Config) != string(busybox.Manifests[0].Config) || got.Manifests[0].Layers[0] != busybox.Manifests[0].Layers[0] {
			t.Errorf("%s: %+v, was %+v", a, got, busybox)
		}
		d.ctl("image", "rm", "busybox")
	}
	tool(t, "tar", "-C", mkdir(t, p("layout")), "-xf", p("saved.tar"))
	d.ctl("image", "load", "-t", "mine:1", p("layout"))
	d.inputOK(t, readFile(t, p("saved.tar")), "image", "load", "-q", "-")
	d.ctl("build", buildContext(t, map[string]string{"Dockerfile": "FROM mine:1\nRUN true\n"}))

	d.ctl("image", "load", "--platform", "linux/arm64", "-t", "arm", p("multi.tar"))
	if got := d.inspect("arm"); !slices.Equal(got.Platforms, []string{"linux/arm64"}) {
		t.Errorf("one platform: %+v", got)
	}
	d.fails([]string{"no image for these platforms"}, "image", "load", "--platform", "linux/s390x", p("multi.tar"))
	d.fails([]string{"no OCI layout"}, "image", "load", dir)
	d.fails([]string{"OCI archive"}, "image", "load", busyboxTar(t))
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
