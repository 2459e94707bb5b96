package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// cachedContext is a build whose steps come out differently each time that they
// run, so that nothing but a cache makes two builds equal.
func cachedContext(t *testing.T) string {
	t.Helper()
	return buildContext(t, map[string]string{"main": "main", "lib": "lib", "Dockerfile": `FROM busybox:latest AS tools
RUN head -c 400000 /dev/urandom > /tools
FROM busybox:latest AS build
COPY lib /src/lib
RUN head -c 300000 /dev/urandom > /vendored
COPY main /src/main
RUN --mount=type=bind,from=tools,source=/tools,target=/tools cat /src/main /src/lib > /out && head -c 32 /dev/urandom | sha256sum >> /out
FROM busybox:latest
RUN head -c 32 /dev/urandom | sha256sum > /id
COPY --link --from=build /out /out
CMD ["cat", "/out"]
`})
}

// archive builds to an OCI archive and returns it.
func (d *daemon) archive(dir string, args ...string) (string, run) {
	d.t.Helper()
	out := filepath.Join(d.t.TempDir(), "image.tar")
	r := d.ctl(append([]string{"build", "--progress=plain", "-o", "type=oci,dest=" + out}, append(args, dir)...)...)
	return out, r
}

// layersOf returns the digests of the layers of an OCI archive.
func layersOf(t *testing.T, archive string) []string {
	t.Helper()
	var m ocispecs.Manifest
	raw := tool(t, "skopeo", "inspect", "--raw", "oci-archive:"+archive)
	if err := json.Unmarshal([]byte(raw), &m); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	if len(out) == 0 {
		t.Fatalf("no layers in %s", raw)
	}
	return out
}

// fetches counts what a registry is asked for.
type fetches struct {
	mu    sync.Mutex
	blobs map[string]int // GET of a blob, by digest
	puts  map[string]int // uploads that were finished, by digest
}

func (f *fetches) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs, f.puts = map[string]int{}, map[string]int{}
}

func (f *fetches) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.blobs))
}

// countingProxy stands before a registry and counts what it is asked for.
func countingProxy(t *testing.T, registry string) (string, *fetches) {
	t.Helper()
	f := &fetches{}
	f.reset()
	to := &url.URL{Scheme: "http", Host: registry}
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, blob, ok := strings.Cut(r.URL.Path, "/blobs/sha256:")
		f.mu.Lock()
		switch {
		case ok && r.Method == http.MethodGet:
			f.blobs["sha256:"+blob]++
		case r.Method == http.MethodPut && r.URL.Query().Has("digest"):
			f.puts[r.URL.Query().Get("digest")]++
		}
		f.mu.Unlock()
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), f
}

func TestRegistryCache(t *testing.T) {
	reg, asked := countingProxy(t, startRegistry(t))
	dir := cachedContext(t)
	first := startWithBusybox(t)
	image, r := first.archive(dir, "--cache-to", "type=registry,ref="+reg+"/c:max,mode=max", "--cache-to", "type=registry,ref="+reg+"/c:min",
		"--cache-to", "type=registry,ref="+reg+"/c:index,mode=max,image-manifest=false")
	if n := len(r.ran()); n != 7 {
		t.Fatalf("the first build ran %q", r.ran())
	}
	want := layersOf(t, image)

	for _, tag := range []string{"max", "min", "index"} {
		t.Run(tag, func(t *testing.T) {
			asked.reset()
			d := startWithBusybox(t)
			image, r := d.archive(dir, "--cache-from", reg+"/c:"+tag)
			expectRan(t, r)
			if got := layersOf(t, image); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("layers %q, want %q", got, want)
			}
			// The document, and what the image is made of but for its base, which is here.
			for _, blob := range asked.got() {
				if slices.Contains(want, blob) {
					continue
				}
				if size := blobSize(t, reg, "c", blob); size > 50_000 {
					t.Errorf("blob %s of %d bytes was downloaded and is not in the image", blob, size)
				}
			}

			// What is not exported is not downloaded.
			asked.reset()
			d = startWithBusybox(t)
			d.ctl("build", "--progress=plain", "--cache-from", reg+"/c:"+tag, "-o", "type=cacheonly", dir)
			for _, blob := range asked.got() {
				if slices.Contains(want, blob) {
					t.Errorf("layer %s was downloaded although nobody reads it", blob)
				}
			}
			if steps := d.records(); len(steps) != 0 {
				t.Errorf("the import entered the daemon's own cache: %q", steps)
			}
		})
	}
	t.Run("changed", func(t *testing.T) {
		changed := buildContext(t, nil)
		tool(t, "cp", "-a", dir+"/.", changed)
		write(t, changed, "main", "another main")
		d := startWithBusybox(t)
		r := d.ctl("build", "--progress=plain", "--cache-from", reg+"/c:max", "--cache-to", "type=registry,ref="+reg+"/c:second,mode=max", "-t", "x", changed)
		expectRan(t, r, "COPY main", "RUN --mount", "COPY --link")
		// Now the steps are in the daemon's own cache, what they stand on in the import.
		r = d.ctl("build", "--progress=plain", "-t", "x", "--cache-from", reg+"/c:max", changed)
		expectRan(t, r)
		// The second cache has both.
		third := startWithBusybox(t)
		r = third.ctl("build", "--progress=plain", "--cache-from", reg+"/c:second", "-t", "x", changed)
		expectRan(t, r)
	})
	t.Run("push", func(t *testing.T) {
		asked.reset()
		d := startWithBusybox(t)
		ref := reg + "/pushed:1"
		d.ctl("build", "--progress=plain", "--cache-from", reg+"/c:max", "-o", "type=image,push=true,name="+ref, dir)
		for _, l := range want {
			if asked.blobs[l]+asked.puts[l] > 0 && blobSize(t, reg, "c", l) < 1_000_000 && l != want[0] {
				t.Errorf("layer %s went through the daemon although the registry has it", l)
			}
		}
		tool(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "dir:"+t.TempDir())
	})
}

// expectRan sees that exactly these steps ran.
func expectRan(t *testing.T, r run, want ...string) {
	t.Helper()
	var got []string
	for _, step := range r.ran() {
		if strings.HasPrefix(step, "[") && strings.Contains(step, "/") {
			got = append(got, step)
		}
	}
	for _, w := range want {
		i := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, w) })
		if i < 0 {
			t.Errorf("%s did not run\n%s", w, r.Err)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("%q ran\n%s", got, r.Err)
	}
}

func blobSize(t *testing.T, reg, repo, blob string) int64 {
	t.Helper()
	resp, err := http.Head("http://" + reg + "/v2/" + repo + "/blobs/" + blob)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.ContentLength
}

// records lists what du says of the daemon's own layers that RUN and COPY made.
func (d *daemon) records() (out []string) {
	for l := range strings.Lines(d.ctl("du", "--verbose").Out) {
		if s, ok := strings.CutPrefix(l, "Description:"); ok && strings.Contains(s, "]") && !strings.Contains(s, "internal") && !strings.Contains(s, "rootfs.tar") && !strings.Contains(s, "FROM") {
			out = append(out, strings.TrimSpace(s))
		}
	}
	return out
}

func TestInlineCache(t *testing.T) {
	reg := startRegistry(t)
	dir := cachedContext(t)
	first := startWithBusybox(t)
	ref := reg + "/inline:1"
	first.ctl("build", "--cache-to", "type=inline", "-o", "type=image,push=true,name="+ref, dir)
	d := startWithBusybox(t)
	image, r := d.archive(dir, "--cache-from", ref)
	expectRan(t, r)
	var m ocispecs.Manifest
	if err := json.Unmarshal([]byte(tool(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref)), &m); err != nil {
		t.Fatal(err)
	}
	got := layersOf(t, image)
	if len(m.Layers) != len(got) || m.Layers[len(got)-1].Digest.String() != got[len(got)-1] {
		t.Errorf("layers %q, want %v", got, m.Layers)
	}
	// A stage that is not in the image is not in its cache.
	write(t, dir, "main", "another")
	r = d.ctl("build", "--progress=plain", "--cache-from", ref, "-t", "x", dir)
	if ran := strings.Join(r.ran(), "\n"); !strings.Contains(ran, "RUN head -c 300000") || strings.Contains(ran, "> /id") {
		t.Errorf("ran %s", ran)
	}
}

func TestLocalCache(t *testing.T) {
	dir := cachedContext(t)
	store := filepath.Join(t.TempDir(), "cache")
	first := startWithBusybox(t)
	image, _ := first.archive(dir, "--cache-to", "type=local,mode=max,compression=uncompressed,force-compression=true,dest="+store)
	if _, err := os.Stat(filepath.Join(store, "index.json")); err != nil {
		t.Fatal(err)
	}
	d := startWithBusybox(t)
	again, r := d.archive(dir, "--cache-from", "type=local,src="+store)
	expectRan(t, r)
	if a, b := imageFiles(t, image), imageFiles(t, again); a["id"] == "" || a["id"] != b["id"] || a["out"] != b["out"] {
		t.Errorf("files differ: %q, %q", a["id"], b["id"])
	}
	// Where the directory is gone, so is what was imported from it and not needed.
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "lib", "another lib")
	d.archive(dir)
}

// imageFiles reads small files of an image.
func imageFiles(t *testing.T, archive string) map[string]string {
	t.Helper()
	work := t.TempDir()
	tool(t, "skopeo", "copy", "oci-archive:"+archive, "oci:"+work+"/layout:x")
	tool(t, "umoci", "unpack", "--image", work+"/layout:x", work+"/bundle")
	out := map[string]string{}
	for _, name := range []string{"id", "out"} {
		b, err := os.ReadFile(filepath.Join(work, "bundle/rootfs", name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(b)
	}
	return out
}

// A cache that has rotted costs time, not the build, and never gives another
// image.
func TestDamagedCache(t *testing.T) {
	dir := cachedContext(t)
	store := filepath.Join(t.TempDir(), "cache")
	first := startWithBusybox(t)
	image, _ := first.archive(dir, "--cache-to", "type=local,mode=max,dest="+store)
	layers := layersOf(t, image)
	index, err := os.ReadFile(filepath.Join(store, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var i ocispecs.Index
	if err := json.Unmarshal(index, &i); err != nil {
		t.Fatal(err)
	}
	manifest := strings.TrimPrefix(i.Manifests[0].Digest.String(), "sha256:")
	path := func(dgst string) string {
		return filepath.Join(store, "blobs/sha256", strings.TrimPrefix(dgst, "sha256:"))
	}
	var m ocispecs.Manifest
	b, err := os.ReadFile(path(manifest))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	last := layers[len(layers)-1]
	spoil := func(f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, p string) {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(p)
			if b = f(b); b == nil {
				return
			}
			if err := os.WriteFile(p, b, 0o444); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := spoil(func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b })
	remove := spoil(func([]byte) []byte { return nil })
	for name, c := range map[string]struct {
		blob string
		do   func(*testing.T, string)
		runs bool // again what the blob was the outcome of
	}{
		"manifest flipped": {manifest, flip, true},
		"config removed":   {m.Config.Digest.String(), remove, true},
		"layer removed":    {last, remove, true},
		"layer flipped":    {last, flip, true},
	} {
		t.Run(name, func(t *testing.T) {
			good, err := os.ReadFile(path(c.blob))
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, path(c.blob))
			defer func() {
				os.Remove(path(c.blob))
				if err := os.WriteFile(path(c.blob), good, 0o444); err != nil {
					t.Fatal(err)
				}
			}()
			d := startWithBusybox(t)
			again, r := d.archive(dir, "--cache-from", "type=local,src="+store)
			got := imageFiles(t, again)
			if !strings.HasPrefix(got["out"], "main") {
				t.Errorf("/out is %q", got["out"])
			}
			if ran := len(r.ran()) > 0; ran != c.runs {
				t.Errorf("ran %q", r.ran())
			}
			// What was run instead is cached now.
			next, r := d.archive(dir, "--cache-from", "type=local,src="+store)
			expectRan(t, r)
			if fmt.Sprint(imageFiles(t, next)) != fmt.Sprint(got) {
				t.Error("the next build differs")
			}
		})
	}
}

func TestCacheOptions(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN true\n"})
	for _, c := range []struct {
		flag, value string
		want        []string
	}{
		{"--cache-to", "type=nonsense", []string{"nonsense", "registry", "local"}},
		{"--cache-to", "type=registry,ref=" + reg + "/x,mode=some", []string{"mode", `"some"`, "min or max"}},
		{"--cache-to", "type=registry,ref=Bad Name", []string{"ref", "Bad Name"}},
		{"--cache-to", "type=registry,ref=" + reg + "/x,compression=lzma", []string{"lzma", "gzip, zstd"}},
		{"--cache-to", "type=registry,ref=" + reg + "/x,image-manifest=true,oci-mediatypes=false", []string{"image-manifest", "oci-mediatypes"}},
		{"--cache-to", "type=registry,ref=" + reg + "/x,ignore-error=perhaps", []string{"ignore-error", "perhaps", "true or false"}},
		{"--cache-to", "type=s3,region=x", []string{"bucket"}},
		{"--cache-to", "type=s3,region=x,bucket=y,upload_parallelism=0", []string{"upload_parallelism", `"0"`}},
		{"--cache-to", "type=azblob", []string{"account_url"}},
		{"--cache-to", "type=gha,token=x,url_v2=http://127.0.0.1:1", []string{"token", "ACTIONS_RUNTIME_TOKEN"}},
		{"--cache-from", "type=inline", []string{"inline", "type=registry"}},
		{"--cache-from", "type=registry,ref=Bad Name", []string{"ref", "Bad Name"}},
	} {
		d.fails(c.want, "build", "--progress=plain", c.flag, c.value, dir)
	}
	twice := "type=registry,ref=" + reg + "/twice"
	d.fails([]string{"duplicate cache exports"}, "build", "--cache-to", twice, "--cache-to", twice+",mode=max", dir)

	// What is not there, or of others, is said and does not matter.
	r := d.ctl("build", "--progress=plain", "--cache-from", reg+"/none:1", "-t", "x", dir)
	if !strings.Contains(r.Err, "importing cache manifest from "+reg+"/none:1") {
		t.Errorf("the missing cache is not mentioned:\n%s", r.Err)
	}
	nowhere := "type=registry,ref=127.0.0.1:1/x"
	d.fails([]string{"127.0.0.1:1"}, "build", "--progress=plain", "--cache-to", nowhere, dir)
	d.ctl("build", "--progress=plain", "--cache-to", nowhere+",ignore-error=true", dir)
}

// A cache of BuildKit is recognised, and left alone.
func TestForeignCache(t *testing.T) {
	store := t.TempDir()
	put := func(data string) string {
		sum := fmt.Sprintf("%x", sha(data))
		if err := os.MkdirAll(filepath.Join(store, "blobs/sha256"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(store, "blobs/sha256"), sum, data)
		return "sha256:" + sum
	}
	config := `{"layers":[{"blob":"sha256:` + strings.Repeat("0", 64) + `","parent":-1}],"records":[{"digest":"sha256:` + strings.Repeat("1", 64) + `"}]}`
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":%q,"size":%d},"layers":[]}`,
		ocispecs.MediaTypeImageManifest, put(config), len(config))
	write(t, store, "index.json", fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`,
		ocispecs.MediaTypeImageManifest, put(manifest), len(manifest)))
	write(t, store, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN true\n"})
	r := d.ctl("build", "--progress=plain", "--cache-from", "type=local,src="+store, "-t", "x", dir)
	if !strings.Contains(r.Err, "BuildKit") {
		t.Errorf("it is not said whose cache it is:\n%s", r.Err)
	}
	expectRan(t, r, "RUN true")
}

func sha(s string) [32]byte { return sha256.Sum256([]byte(s)) }
