package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestChange(t *testing.T) {
	var img dockerspec.DockerOCIImage
	img.Config.Env = []string{"A=old"}
	err := change(&img, []string{
		`CMD ["a", "b"]`, `ENTRYPOINT run me`, `ENV A=1 B="two words"`, `ENV C=$A`, `LABEL "k k"=v`, `EXPOSE 80 53/udp`, `VOLUME /v`, `USER u:g`, `WORKDIR /w`,
		`STOPSIGNAL SIGINT`, `HEALTHCHECK --interval=5s CMD true`, `ONBUILD RUN x`, `SHELL ["/bin/bash", "-c"]`,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := img.Config
	for name, ok := range map[string]bool{
		"cmd":        slices.Equal(c.Cmd, []string{"a", "b"}),
		"entrypoint": slices.Equal(c.Entrypoint, []string{"/bin/sh", "-c", "run me"}),
		"env":        slices.Equal(c.Env, []string{"A=1", "B=two words", "C=1"}),
		"labels":     c.Labels["k k"] == "v",
		"ports":      reflect.DeepEqual(c.ExposedPorts, map[string]struct{}{"80/tcp": {}, "53/udp": {}}),
		"volumes":    len(c.Volumes) == 1,
		"user":       c.User == "u:g",
		"workdir":    c.WorkingDir == "/w",
		"signal":     c.StopSignal == "SIGINT",
		"health":     c.Healthcheck != nil && c.Healthcheck.Interval == 5*time.Second,
		"onbuild":    slices.Equal(c.OnBuild, []string{"RUN x"}),
		"shell":      slices.Equal(c.Shell, []string{"/bin/bash", "-c"}),
	} {
		if !ok {
			t.Errorf("%s is wrong: %+v", name, c)
		}
	}
	for _, bad := range []string{"RUN x", "COPY a b", "NOPE", "", "FROM x", "CMD a\nCMD b", "ENV"} {
		if err := change(&img, []string{bad}); err == nil || !strings.Contains(err.Error(), "--change") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestImportedImage(t *testing.T) {
	p := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(p, []byte(`{"architecture":"arm64","os":"linux","config":{"Env":["A=1"],"OnBuild":["RUN y"]},"rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := (&importFlags{config: p, changes: []string{"CMD x"}}).image()
	if err != nil {
		t.Fatal(err)
	}
	if img.Architecture != "arm64" || len(img.Config.Env) != 1 || len(img.Config.OnBuild) != 1 || len(img.Config.Cmd) != 3 || len(img.RootFS.DiffIDs) != 0 {
		t.Errorf("%+v", img)
	}
	if img, err := (&importFlags{platform: "linux/arm/v6"}).image(); err != nil || img.Architecture != "arm" || img.Variant != "v6" {
		t.Errorf("%+v, %v", img.Platform, err)
	}
	if img, err := (&importFlags{}).image(); err != nil || img.OS != "linux" || img.Architecture == "" {
		t.Errorf("%+v, %v", img.Platform, err)
	}
	for want, f := range map[string]importFlags{"--platform": {platform: "a/b/c/d"}, "--config": {config: "/nope"}, "JSON": {config: os.Args[0]}} {
		if _, err := f.image(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", f, err)
		}
	}
}

func TestRootFS(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := t.TempDir()
	archive := filepath.Join(dir, "root.tar")
	b := tarOf(t, map[string]string{"a": "b"})
	if err := os.WriteFile(archive, b, 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1700000000, 0)
	if err := os.Chtimes(archive, when, when); err != nil {
		t.Fatal(err)
	}
	r, made, err := rootFS(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) || !made.Equal(when) {
		t.Errorf("%d bytes of %d, %v, %v", len(got), len(b), made, err)
	}
	r.Close()
	t.Setenv("SOURCE_DATE_EPOCH", "12")
	if r, made, err = rootFS(t.Context(), dir); err != nil || made.Unix() != 12 {
		t.Fatal(made, err)
	}
	if _, err := tar.NewReader(r).Next(); err != nil {
		t.Error(err)
	}
	r.Close()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{text, "/nope"} {
		if _, _, err := rootFS(t.Context(), bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "soon")
	if _, _, err := rootFS(t.Context(), archive); err == nil || !strings.Contains(err.Error(), `"soon"`) {
		t.Errorf("a time that is none: %v", err)
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
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
	return b.Bytes()
}

// fixture is a layout that tests fill.
type fixture struct {
	t *testing.T
	content.Store
	dir string
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	dir := t.TempDir()
	s, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{t, s, dir}
}

func (l fixture) put(mediaType string, v any) ocispecs.Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := content.WriteBlob(l.t.Context(), l, d.Digest.String(), bytes.NewReader(b), d); err != nil {
		l.t.Fatal(err)
	}
	return d
}

func (l fixture) image(arch string) ocispecs.Descriptor {
	l.t.Helper()
	config := l.put(ocispecs.MediaTypeImageConfig, ocispecs.Image{Platform: ocispecs.Platform{OS: "linux", Architecture: arch}})
	return l.put(ocispecs.MediaTypeImageManifest, ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest, Config: config})
}

func named(d ocispecs.Descriptor, key, name string) ocispecs.Descriptor {
	d.Annotations = map[string]string{key: name}
	return d
}

func TestFind(t *testing.T) {
	l := newFixture(t)
	const full, ref = "io.containerd.image.name", ocispecs.AnnotationRefName
	att := named(l.image("riscv64"), attestationFor, "attestation-manifest")
	lost := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromString("lost"), Size: 4}
	multi := l.put(ocispecs.MediaTypeImageIndex, ocispecs.Index{Manifests: []ocispecs.Descriptor{l.image("amd64"), l.image("arm64"), att, lost}})
	one := l.image("s390x")

	found, err := (&loadFlags{}).find(t.Context(), l, []ocispecs.Descriptor{named(multi, full, "docker.io/library/m:1"), named(one, ref, "example.com/one:2"), named(multi, full, "m:2")})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || strings.Join(found[0].names, " ") != "docker.io/library/m:1 docker.io/library/m:2" || len(found[0].manifests) != 2 || found[1].names[0] != "example.com/one:2" {
		t.Errorf("found %+v", found)
	}
	for _, m := range found[0].manifests {
		if !strings.Contains(string(m.config), m.platform.Architecture) {
			t.Errorf("%s has the configuration %s", m.platform.Architecture, m.config)
		}
	}
	found, err = (&loadFlags{platforms: []string{"linux/arm64"}, names: []string{"mine"}}).find(t.Context(), l, []ocispecs.Descriptor{named(multi, ref, "latest")})
	if err != nil || len(found) != 1 || len(found[0].manifests) != 1 || found[0].names[0] != "docker.io/library/mine:latest" {
		t.Errorf("found %+v, %v", found, err)
	}
	for want, c := range map[string]struct {
		f     loadFlags
		index []ocispecs.Descriptor
	}{
		"has no name":         {index: []ocispecs.Descriptor{named(multi, ref, "latest")}},
		"no image for these":  {f: loadFlags{platforms: []string{"linux/ppc64le"}}, index: []ocispecs.Descriptor{multi}},
		"cannot share a name": {f: loadFlags{names: []string{"x"}}, index: []ocispecs.Descriptor{multi, one}},
		"--platform":          {f: loadFlags{platforms: []string{"a/b/c/d"}}, index: []ocispecs.Descriptor{multi}},
		"lower case":          {f: loadFlags{names: []string{"X"}}, index: []ocispecs.Descriptor{one}},
		"want an image":       {index: []ocispecs.Descriptor{{MediaType: "text/plain", Digest: one.Digest}}},
		"read manifest":       {index: []ocispecs.Descriptor{lost}},
	} {
		if _, err := c.f.find(t.Context(), l, c.index); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

func TestOpenImages(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	// What docker save wrote before it wrote OCI layouts.
	config, err := json.Marshal(ocispecs.Image{Platform: ocispecs.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "old.tar")
	b := tarOf(t, map[string]string{
		"abc.json": string(config), "abc/layer.tar": string(tarOf(t, map[string]string{"f": "x"})),
		"manifest.json": `[{"Config":"abc.json","RepoTags":["alpine:3","other:1"],"Layers":["abc/layer.tar"]}]`,
	})
	if err := os.WriteFile(old, b, 0o600); err != nil {
		t.Fatal(err)
	}
	store, index, done, err := openImages(t.Context(), old)
	if err != nil {
		t.Fatal(err)
	}
	found, err := (&loadFlags{}).find(t.Context(), store, index)
	if err != nil || len(found) != 1 || strings.Join(found[0].names, " ") != "docker.io/library/alpine:3 docker.io/library/other:1" {
		t.Errorf("found %+v, %v", found, err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
	bad := filepath.Join(dir, "bad.tar")
	if err := os.WriteFile(bad, tarOf(t, map[string]string{"x": "y"}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{bad, dir, "/nope", os.Args[0]} {
		if _, _, _, err := openImages(t.Context(), from); err == nil {
			t.Errorf("%s is taken for images", from)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "buildctl-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
