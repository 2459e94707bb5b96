package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHostileImports brings the archives into the image store as root file
// systems, and builds on those that come in.
func TestHostileImports(t *testing.T) {
	c := newCanary(t)
	d := startWithBusybox(t)
	n := 0
	for name, h := range hostileTars(t, c.dir) {
		n++
		image := fmt.Sprintf("hostile:%d", n)
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			r := d.input(t.Context(), string(h.tar), "image", "import", image, "-")
			if r.Exit == 0 {
				d.outcome(h.layer, "build", "--progress=plain", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY --from=" + image + " / /x/\n"}))
			}
			if strings.Contains(r.Err, "goroutine") {
				t.Errorf("panic: %s", r.Err)
			}
			c.check(t)
		})
	}
	d.alive()
}

// TestHostileImages loads images that are not what they say.
func TestHostileImages(t *testing.T) {
	c := newCanary(t)
	maker := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN head -c 100000 /dev/urandom > /noise\n"})
	for name, spoil := range map[string]struct {
		want  string
		spoil func(t *testing.T, dir string, m ocispecs.Manifest)
	}{
		"truncated layer": {"its descriptor says", func(t *testing.T, dir string, m ocispecs.Manifest) {
			edit(t, dir, m.Layers[1], func(b []byte) []byte { return b[:len(b)/2] })
		}},
		"changed layer": {"content has digest", func(t *testing.T, dir string, m ocispecs.Manifest) {
			edit(t, dir, m.Layers[1], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}},
		"longer layer": {"its descr", func(t *testing.T, dir string, m ocispecs.Manifest) {
			edit(t, dir, m.Layers[1], func(b []byte) []byte { return append(b, 0) })
		}},
		"changed configuration": {"content has digest", func(t *testing.T, dir string, m ocispecs.Manifest) {
			edit(t, dir, m.Config, func(b []byte) []byte { return bytes.Replace(b, []byte("linux"), []byte("minix"), 1) })
		}},
		"no configuration": {"read configuration", func(t *testing.T, dir string, m ocispecs.Manifest) {
			if err := os.Remove(blobPath(dir, m.Config)); err != nil {
				t.Fatal(err)
			}
		}},
		"layer that is a link out": {"", func(t *testing.T, dir string, m ocispecs.Manifest) {
			p := blobPath(dir, m.Layers[1])
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(c.dir, "bird"), p); err != nil {
				t.Fatal(err)
			}
		}},
		"digest that is a path": {"read manifest", func(t *testing.T, dir string, m ocispecs.Manifest) {
			write(t, dir, "index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"`+ocispecs.MediaTypeImageManifest+`","digest":"sha256:../../../../../../etc/passwd","size":7}]}`)
		}},
		"garbage for an index": {"read index", func(t *testing.T, dir string, m ocispecs.Manifest) {
			write(t, dir, "index.json", strings.Repeat("[", 1<<20))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t) // which has nothing of the image
			layout := filepath.Join(t.TempDir(), "layout")
			maker.with(t).ctl("build", "-o", "type=oci,tar=false,dest="+layout, dir)
			top := decode[ocispecs.Index](t, []byte(readFile(t, layout, "index.json")))
			m := decode[ocispecs.Manifest](t, []byte(readFile(t, blobPath(layout, top.Manifests[0]))))
			spoil.spoil(t, layout, m)
			for _, from := range []string{layout, layout + ".tar"} {
				want := spoil.want
				if from != layout { // what is not what its name says is not taken from it
					tool(t, "tar", "-C", layout, "-cf", from, ".")
					want = ""
				}
				d.fails([]string{want}, "image", "load", "-t", "spoilt", from)
				if r := d.try(t.Context(), "image", "inspect", "spoilt"); r.Exit == 0 {
					t.Errorf("the image is in the store")
				}
				c.check(t)
			}
			d.busybox()
			d.alive()
		})
	}
}

func blobPath(dir string, d ocispecs.Descriptor) string {
	return filepath.Join(dir, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded())
}

func edit(t *testing.T, dir string, d ocispecs.Descriptor, f func([]byte) []byte) {
	t.Helper()
	p := blobPath(dir, d)
	if err := os.Chmod(p, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, f([]byte(readFile(t, p))), 0o600); err != nil {
		t.Fatal(err)
	}
}
