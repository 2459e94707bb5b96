package export

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	sessioncontent "github.com/moby/buildkit/session/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// run runs a tool that somebody else wrote; without it the test says so.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("SKIPPED: %s is not installed", name)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func save(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// untar returns a tar's headers and bytes by name.
func untar(t *testing.T, data []byte) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	heads, bodies := map[string]*tar.Header{}, map[string]string{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return heads, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		heads[h.Name], bodies[h.Name] = h, string(body)
	}
}

// checkUnpacked checks a root file system made of two's tree.
func checkUnpacked(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]string{"etc/passwd": "root,you", "bin/a": "tool", "sbin/b": "tool"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/old")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file is there: %v", err)
	}
}

func TestOCIArchive(t *testing.T) {
	set, m := testSet(t)
	var out sink
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	res := export(t, set, "oci", "name=x,example.com/y:1", in, Request{ID: 3, Client: client(t, out.target(3))})
	if out.meta["containerimage.digest"] != res.Descriptor.Digest.String() || !out.closed {
		t.Errorf("the client was told %v", out.meta)
	}
	if res.Response["image.name"] != "docker.io/library/x:latest,example.com/y:1" {
		t.Errorf("names: %s", res.Response["image.name"])
	}
	_, files := untar(t, out.Bytes())
	var idx ocispecs.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &idx); err != nil {
		t.Fatal(err)
	}
	if len(idx.Manifests) != 2 || files["manifest.json"] != "" || files["oci-layout"] != `{"imageLayoutVersion":"1.0.0"}` {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	a := idx.Manifests[0].Annotations
	if a["org.opencontainers.image.ref.name"] != "latest" || a["io.containerd.image.name"] != "docker.io/library/x:latest" ||
		a["org.opencontainers.image.created"] != past.Add(3600e9).Format("2006-01-02T15:04:05Z") {
		t.Errorf("annotations: %v", a)
	}

	path := save(t, out.Bytes())
	var inspected struct {
		Digest, Architecture string
		Layers, Env          []string
	}
	if err := json.Unmarshal(run(t, "skopeo", "inspect", "oci-archive:"+path+":latest"), &inspected); err != nil {
		t.Fatal(err)
	}
	if inspected.Digest != res.Descriptor.Digest.String() || len(inspected.Layers) != 2 || inspected.Env[0] != "A=b" {
		t.Errorf("skopeo sees %+v", inspected)
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: umoci unpacks owners only as root")
	}
	layout, bundle := t.TempDir(), filepath.Join(t.TempDir(), "bundle")
	run(t, "tar", "-xf", path, "-C", layout)
	run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	checkUnpacked(t, filepath.Join(bundle, "rootfs"))
}

func TestDockerArchive(t *testing.T) {
	set, m := testSet(t)
	var out sink
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	res := export(t, set, "docker", "name=x", in, Request{Client: client(t, out.target(0))})
	_, files := untar(t, out.Bytes())
	var list []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal([]byte(files["manifest.json"]), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].RepoTags[0] != "x:latest" || len(list[0].Layers) != 2 || files[list[0].Config] == "" {
		t.Errorf("manifest.json: %s", files["manifest.json"])
	}
	path := save(t, out.Bytes())
	run(t, "skopeo", "inspect", "docker-archive:"+path+":x:latest")
	dir := t.TempDir()
	run(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+path+":x:latest", "dir:"+dir)
	var mf ocispecs.Manifest
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &mf); err != nil {
		t.Fatal(err)
	}
	// Whoever loads the archive packs the layers again; the config must be ours.
	if mf.Config.Digest.String() != res.Response["containerimage.config.digest"] {
		t.Errorf("loaded as %s, exported as %s", mf.Config.Digest, res.Response["containerimage.config.digest"])
	}
}

// With attestations a docker archive still says which image is to be loaded.
func TestDockerArchiveWithAttestations(t *testing.T) {
	set, m := testSet(t)
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	in.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}}
	var out sink
	export(t, set, "docker", "name=x", in, Request{Client: client(t, out.target(0))})
	_, files := untar(t, out.Bytes())
	if !strings.Contains(files["manifest.json"], `"x:latest"`) {
		t.Errorf("manifest.json: %q", files["manifest.json"])
	}
	run(t, "skopeo", "inspect", "docker-archive:"+save(t, out.Bytes()))
}

func TestArchiveIsDeterministic(t *testing.T) {
	for _, attrs := range []string{"name=a", "compression=uncompressed", "source-date-epoch=1000000000;rewrite-timestamp=true"} {
		var first []byte
		for range 3 {
			set, m := testSet(t) // another store each time
			tr := two(t, m)
			in := multi(t, nil, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": tr})
			in.Attestations = map[string][]Attestation{"linux/amd64": {provenance()}}
			var out sink
			export(t, set, "oci", attrs, in, Request{Client: client(t, out.target(0))})
			if first == nil {
				first = out.Bytes()
			} else if !bytes.Equal(first, out.Bytes()) {
				t.Fatalf("%s: two exports of one image differ", attrs)
			}
		}
	}
}

func TestArchiveFetchesLazyLayers(t *testing.T) {
	remote, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set, m := testSet(t)
	tr := two(t, m)
	m.pulled(tr, remote, "docker.io/library/base")
	var out sink
	p := &storeProvider{Store: remote}
	res := export(t, set, "oci", "", input(t, tr, nil), Request{Client: client(t, out.target(0)), Provider: p})
	_, files := untar(t, out.Bytes())
	for _, l := range read[ocispecs.Manifest](t, m.blobs, *res.Descriptor).Layers {
		if int64(len(files["blobs/sha256/"+l.Digest.Encoded()])) != l.Size {
			t.Errorf("layer %s is missing", l.Digest)
		}
	}
}

func TestClientHasTheArchiveAlready(t *testing.T) {
	set, m := testSet(t)
	out := sink{refuse: true}
	in := input(t, two(t, m), nil)
	in.Platforms[0].Config = []byte(strings.Repeat(" ", 1<<20) + amd64) // more than fits a buffer
	if res := export(t, set, "oci", "", in, Request{Client: client(t, out.target(0))}); res.Response["containerimage.digest"] == "" {
		t.Error("no digest")
	}
}

func TestImageIntoClientsStore(t *testing.T) {
	set, m := testSet(t)
	store, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tr := two(t, m)
	in := multi(t, nil, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": tr})
	attach := sessioncontent.NewAttachable(map[string]content.Store{"export": store})
	for range 2 { // the second time everything is there
		res := export(t, set, "oci", "tar=false", in, Request{Client: client(t, attach)})
		g, err := graphOf(t.Context(), store, *res.Descriptor)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.manifests) != 3 || len(g.data) != 4 { // two configs, two layers
			t.Errorf("got %d manifests, %d blobs", len(g.manifests), len(g.data))
		}
		for _, d := range append(g.manifests, g.data...) {
			ours, err1 := content.ReadBlob(t.Context(), m.blobs, d)
			theirs, err2 := content.ReadBlob(t.Context(), store, d)
			if err1 != nil || err2 != nil || !bytes.Equal(ours, theirs) {
				t.Errorf("%s: %v %v", d.Digest, err1, err2)
			}
		}
	}
}

func TestNoClient(t *testing.T) {
	set, m := testSet(t)
	for _, typ := range []string{"oci", "docker", "tar", "local"} {
		e, _ := set.Resolve(typ, nil)
		if _, err := e.Export(t.Context(), input(t, two(t, m), nil), Request{}); err == nil || !strings.Contains(err.Error(), "session") {
			t.Errorf("type=%s without client: %v", typ, err)
		}
		if _, err := e.Export(t.Context(), input(t, two(t, m), nil), Request{Client: client(t)}); err == nil || !strings.Contains(err.Error(), "takes no files") {
			t.Errorf("type=%s with a client that takes nothing: %v", typ, err)
		}
	}
}
