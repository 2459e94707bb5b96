package export

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const amd64 = `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"ArgsEscaped":true},"rootfs":{},
	"history":[{"created":"2020-01-01T00:00:00Z","created_by":"base"},{"created_by":"ENV A=b","empty_layer":true},{"created_by":"RUN x"}]}`

// two is a tree of two layers: the second changes, removes and links files.
func two(t *testing.T, m *memTrees) cache.Tree {
	base := m.add("", write(t, map[string]string{"etc/passwd": "root", "etc/old": "x", "bin/": "", "sbin": "-> bin"}))
	return m.add(base, write(t, map[string]string{"etc/passwd": "root,you", "etc/old": "!", "bin/a": "tool", "bin/b": "= bin/a"}))
}

func input(t *testing.T, tr cache.Tree, metadata map[string]string) Input {
	t.Helper()
	md := map[string][]byte{}
	for k, v := range metadata {
		md[k] = []byte(v)
	}
	in, err := NewInput(tr, nil, md)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// multi is an input for several platforms, one tree each.
func multi(t *testing.T, metadata map[string]string, trees map[string]cache.Tree) Input {
	t.Helper()
	md := map[string][]byte{}
	for k, v := range metadata {
		md[k] = []byte(v)
	}
	var list []string
	for _, id := range []string{"linux/arm64", "linux/amd64"} {
		if _, ok := trees[id]; ok {
			arch := strings.TrimPrefix(id, "linux/")
			list = append(list, fmt.Sprintf(`{"ID":%q,"Platform":{"os":"linux","architecture":%q}}`, id, arch))
			md["containerimage.config/"+id] = []byte(strings.Replace(amd64, "amd64", arch, 1))
		}
	}
	md["refs.platforms"] = []byte(`{"Platforms":[` + strings.Join(list, ",") + `]}`)
	in, err := NewInput("", trees, md)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func export(t *testing.T, set *Set, typ, attrs string, in Input, r Request) *Result {
	t.Helper()
	e, err := set.Resolve(typ, parse(attrs))
	if err != nil {
		t.Fatal(err)
	}
	res, err := e.Export(t.Context(), in, r)
	if err != nil {
		t.Fatal(err)
	}
	if res.Finalize != nil {
		if err := res.Finalize(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return res
}

func read[T any](t *testing.T, p content.Provider, d ocispecs.Descriptor) T {
	t.Helper()
	var v T
	data, err := content.ReadBlob(t.Context(), p, d)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestImage(t *testing.T) {
	set, m := testSet(t)
	var s steps
	res := export(t, set, "image", "name=example.com/x", input(t, two(t, m), map[string]string{"containerimage.config": amd64}), Request{Progress: s.progress})
	d := *res.Descriptor
	if d.MediaType != ocispecs.MediaTypeImageManifest || d.Platform == nil || d.Platform.Architecture != "amd64" {
		t.Errorf("descriptor: %+v", d)
	}
	mf := read[ocispecs.Manifest](t, m.blobs, d)
	if len(mf.Layers) != 2 || mf.Layers[1].MediaType != ocispecs.MediaTypeImageLayerGzip || mf.Layers[1].Annotations != nil {
		t.Errorf("layers: %+v", mf.Layers)
	}
	want := map[string]string{
		"containerimage.digest":        d.Digest.String(),
		"containerimage.config.digest": mf.Config.Digest.String(),
		"image.name":                   "example.com/x",
	}
	data, err := base64.StdEncoding.DecodeString(res.Response["containerimage.descriptor"])
	if err != nil {
		t.Fatal(err)
	}
	var told ocispecs.Descriptor
	if err := json.Unmarshal(data, &told); err != nil || !reflect.DeepEqual(told, d) {
		t.Errorf("containerimage.descriptor: %s", data)
	}
	delete(res.Response, "containerimage.descriptor")
	if !reflect.DeepEqual(res.Response, want) {
		t.Errorf("response: %v, want %v", res.Response, want)
	}
	wantSteps := []string{"exporting layers", "exporting manifest " + d.Digest.String(), "exporting config " + mf.Config.Digest.String(), "naming to example.com/x"}
	if !slices.Equal(s.all, wantSteps) {
		t.Errorf("steps: %q", s.all)
	}

	config := read[map[string]any](t, m.blobs, mf.Config)
	if config["config"].(map[string]any)["ArgsEscaped"] != true {
		t.Error("a field that OCI does not know was lost")
	}
	img := read[ocispecs.Image](t, m.blobs, mf.Config)
	infos, _ := m.Layers(input(t, "tree-2", nil).Platforms[0].Tree)
	if len(img.RootFS.DiffIDs) != 2 || len(img.History) != 3 {
		t.Fatalf("config: %+v", img)
	}
	// The note in between is as old as the first new layer.
	for i, at := range []time.Time{time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), infos[1].Created, infos[1].Created} {
		if !img.History[i].Created.Equal(at) {
			t.Errorf("history %d: %s, want %s", i, img.History[i].Created, at)
		}
	}
	if !img.Created.Equal(infos[1].Created) {
		t.Errorf("created: %s", img.Created)
	}
}

func TestImageDockerTypes(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	m.pulled(tr, m.blobs, "docker.io/library/base")
	tr = m.add(tr, write(t, map[string]string{"new": "x"}))
	res := export(t, set, "image", "oci-mediatypes=false;compression=uncompressed;annotation.k=v", input(t, tr, nil), Request{})
	mf := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor)
	var types []string
	for _, l := range mf.Layers {
		types = append(types, l.MediaType)
	}
	want := []string{images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2Layer}
	if mf.MediaType != images.MediaTypeDockerSchema2Manifest || mf.Config.MediaType != images.MediaTypeDockerSchema2Config || !slices.Equal(types, want) {
		t.Errorf("got %s, %s, %v", mf.MediaType, mf.Config.MediaType, types)
	}
	img := read[ocispecs.Image](t, m.blobs, mf.Config)
	if img.Config.WorkingDir != "/" || !slices.Equal(img.Config.Env, []string{defaultPath}) || len(img.History) != 3 {
		t.Errorf("default config: %+v", img)
	}
}

func TestImageEmpty(t *testing.T) {
	set, m := testSet(t)
	res := export(t, set, "image", "", input(t, "", nil), Request{})
	data, err := content.ReadBlob(t.Context(), m.blobs, *res.Descriptor)
	if err != nil || strings.Contains(string(data), "null") {
		t.Errorf("manifest of nothing: %v\n%s", err, data)
	}
	mf := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor)
	if data, err = content.ReadBlob(t.Context(), m.blobs, mf.Config); err != nil || strings.Contains(string(data), "null") {
		t.Errorf("config of nothing: %v\n%s", err, data)
	}
}

func TestIndexAndAnnotations(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	in := multi(t, map[string]string{"annotation-manifest.from": "frontend"}, map[string]cache.Tree{"linux/amd64": tr, "linux/arm64": tr})
	attrs := "annotation.a=1;annotation-manifest[linux/arm64].a=2;annotation-index.i=3;annotation-index-descriptor.d=4;annotation-manifest-descriptor[linux/amd64].m=5;annotation.from=user"
	res := export(t, set, "image", attrs, in, Request{})
	idx := read[ocispecs.Index](t, m.blobs, *res.Descriptor)
	if _, ok := res.Response["containerimage.config.digest"]; ok || idx.MediaType != ocispecs.MediaTypeImageIndex {
		t.Errorf("index: %+v %v", idx, res.Response)
	}
	check := func(what string, got map[string]string, want string) {
		t.Helper()
		if fmt.Sprint(got) != "map["+want+"]" {
			t.Errorf("%s: got %v, want %s", what, got, want)
		}
	}
	check("index", idx.Annotations, "i:3")
	check("index descriptor", res.Descriptor.Annotations, "d:4")
	if len(idx.Manifests) != 2 || idx.Manifests[0].Platform.Architecture != "arm64" {
		t.Fatalf("manifests are not in the frontend's order: %+v", idx.Manifests)
	}
	check("arm64 descriptor", idx.Manifests[0].Annotations, "")
	check("amd64 descriptor", idx.Manifests[1].Annotations, "m:5")
	check("arm64", read[ocispecs.Manifest](t, m.blobs, idx.Manifests[0]).Annotations, "a:2 from:frontend")
	check("amd64", read[ocispecs.Manifest](t, m.blobs, idx.Manifests[1]).Annotations, "a:1 from:frontend")

	for attrs, want := range map[string]string{
		"annotation-manifest[linux/s390x].a=b": "no platform linux/s390x found in source",
	} {
		e, err := set.Resolve("image", parse(attrs))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
	e, _ := set.Resolve("image", parse("annotation-index.a=b"))
	if _, err := e.Export(t.Context(), input(t, tr, nil), Request{}); err == nil || !strings.Contains(err.Error(), "index annotations not supported for single platform export") {
		t.Errorf("index annotation without index: %v", err)
	}
	e, _ = set.Resolve("docker", nil)
	if _, err := e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), "does not currently support exporting manifest lists") {
		t.Errorf("docker index: %v", err)
	}
}

func TestEpoch(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	early := past.Add(-time.Hour)
	md := map[string]string{"containerimage.config": amd64, "source.date.epoch": epochString(early)}
	created := func(attrs string, md map[string]string) (ocispecs.Manifest, ocispecs.Image) {
		res := export(t, set, "image", attrs, input(t, tr, md), Request{})
		mf := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor)
		return mf, read[ocispecs.Image](t, m.blobs, mf.Config)
	}
	_, img := created("", md)
	if !img.Created.Equal(early) || !img.History[0].Created.Before(early) || !img.History[2].Created.Equal(early) {
		t.Errorf("frontend's epoch: %s, %+v", img.Created, img.History)
	}
	if _, img = created("source-date-epoch=", md); img.Created.Equal(early) {
		t.Error("an empty attribute does not reset the frontend's epoch")
	}
	mf, img := created("rewrite-timestamp=true;source-date-epoch=1000000000", md)
	if img.Created.Unix() != 1e9 || mf.Layers[1].Annotations["buildkit/rewritten-timestamp"] != "1000000000" {
		t.Errorf("attribute's epoch: %s %+v", img.Created, mf.Layers)
	}
	if mf, _ = created("rewrite-timestamp=true;source-date-epoch=", md); mf.Layers[1].Annotations != nil {
		t.Errorf("rewritten without epoch: %+v", mf.Layers)
	}
	delete(md, "source.date.epoch")
	md["source.date.epoch/"+input(t, tr, md).Platforms[0].ID] = "1000000001"
	if _, img = created("", md); img.Created.Unix() != 1e9+1 {
		t.Errorf("platform's epoch: %s", img.Created)
	}
	if _, err := NewInput(tr, nil, map[string][]byte{"source.date.epoch": []byte("x")}); err == nil {
		t.Error("a wrong epoch of the frontend was taken")
	}
}

func epochString(t time.Time) string { return fmt.Sprint(t.Unix()) }

// A layer of the base image keeps its bytes and its history its times.
func TestEpochSparesTheBase(t *testing.T) {
	set, m := testSet(t)
	base := m.add("", write(t, map[string]string{"base": "x"}))
	m.pulled(base, m.blobs, "docker.io/library/base")
	infos, _ := m.Layers(base)
	baseConfig, _ := json.Marshal(map[string]any{
		"rootfs":  map[string]any{"diff_ids": []godigest.Digest{infos[0].DiffID}},
		"history": []map[string]any{{"created": past, "created_by": "base"}},
	})
	config, _ := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64",
		"history": []map[string]any{{"created": past, "created_by": "base"}, {"created_by": "RUN x"}},
	})
	tr := m.add(base, write(t, map[string]string{"new": "x"}))
	md := map[string]string{"containerimage.config": string(config), "containerimage.base.config": string(baseConfig)}
	res := export(t, set, "image", "rewrite-timestamp=true;source-date-epoch=1000000000", input(t, tr, md), Request{})
	mf := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor)
	img := read[ocispecs.Image](t, m.blobs, mf.Config)
	if mf.Layers[0].Digest != infos[0].Desc.Digest || mf.Layers[1].Annotations[rewrittenTimestamp] == "" {
		t.Errorf("layers: %+v", mf.Layers)
	}
	if !img.History[0].Created.Equal(past) || img.History[1].Created.Unix() != 1e9 {
		t.Errorf("history: %+v", img.History)
	}
}

func TestInlineCacheAndConfigFromAttributes(t *testing.T) {
	set, m := testSet(t)
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	in.InlineCache = func(_ context.Context, id string, layers []ocispecs.Descriptor) ([]byte, error) {
		return fmt.Appendf(nil, "%s %d", id, len(layers)), nil
	}
	res := export(t, set, "image", `containerimage.config={"os":"plan9","architecture":"arm"}`, in, Request{})
	mf := read[ocispecs.Manifest](t, m.blobs, *res.Descriptor)
	config := read[struct {
		OS    string `json:"os"`
		Cache []byte `json:"buildd.cache.v1"`
	}](t, m.blobs, mf.Config)
	if config.OS != "plan9" || string(config.Cache) != "linux/amd64 2" {
		t.Errorf("got %+v", config)
	}
	if string(in.Platforms[0].Config) != amd64 {
		t.Error("the exporter changed its input")
	}
}

func TestBadConfig(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	for config, want := range map[string]string{
		`null`:                     "invalid null image config for export",
		`{"os":"linux"}`:           "missing architecture",
		`{"architecture":"amd64"}`: "missing os",
		`[]`:                       "invalid image config for export",
	} {
		in := input(t, tr, nil)
		in.Platforms[0].Config = []byte(config)
		e, _ := set.Resolve("image", nil)
		if _, err := e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}

func TestNaming(t *testing.T) {
	for _, c := range []struct{ attrs, want, name string }{
		{"name=a,b:1", "a b:1", "a,b:1"},
		{"name=a;name-canonical=true", "a a@D", "a"},
		{"name=*", "found/x", "found/x"},
		{"dangling-name-prefix=d", "d@D", "d@D"},
		{"dangling-name-prefix=d;name-canonical=true", "d@D", "d@D"},
		{"dangling-name-prefix=d;name=a", "a d@D", "a,d@D"},
		{"dangling-name-prefix=d;name=a;danging-name-empty-only=true", "a", "a"},
		{"name=a;store=false", "", "a"},
		{"", "", ""},
	} {
		m := newMemTrees(t)
		images := &memImages{}
		set := NewSet(Config{Trees: m, Blobs: m.blobs, Images: images})
		res := export(t, set, "image", c.attrs, input(t, two(t, m), map[string]string{"image.name": "found/x"}), Request{})
		var names []string
		for name := range images.m {
			names = append(names, strings.ReplaceAll(name, res.Descriptor.Digest.String(), "D"))
		}
		slices.Sort(names)
		got := strings.ReplaceAll(res.Response["image.name"], res.Descriptor.Digest.String(), "D")
		if strings.Join(names, " ") != c.want || got != c.name {
			t.Errorf("%s: stored %q, told %q", c.attrs, names, got)
		}
	}
}

// Naming an image brings its blobs; exporting it without a name does not.
func TestLazyBase(t *testing.T) {
	remote, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := newMemTrees(t)
	base := two(t, m)
	m.pulled(base, remote, "docker.io/library/base")
	tr := m.add(base, write(t, map[string]string{"new": "x"}))
	set := NewSet(Config{Trees: m, Blobs: m.blobs, Images: &memImages{}})
	p := &storeProvider{Store: remote}
	export(t, set, "image", "", input(t, tr, nil), Request{Provider: p})
	if len(p.fetched) > 0 {
		t.Errorf("fetched %v for nobody", p.fetched)
	}
	export(t, set, "image", "name=x", input(t, tr, nil), Request{Provider: p})
	if len(p.fetched) != 2 {
		t.Errorf("fetched %v, want both layers", p.fetched)
	}
}

// provenance is an attestation as the daemon makes it.
func provenance() Attestation {
	return Attestation{
		Kind: gatewaypb.AttestationKind_InToto, Path: "provenance.json", PredicateType: "https://slsa.dev/provenance/v1",
		Content: func(context.Context) ([]byte, error) { return []byte(`{"p":1}`), nil },
	}
}

func TestAttestationManifest(t *testing.T) {
	set, m := testSet(t)
	tr := two(t, m)
	sbom := m.add("", write(t, map[string]string{
		"out/extra.spdx.json": `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","subject":[{"name":"s","digest":{"sha256":"` + strings.Repeat("a", 64) + `"}}],"predicate":{"name":"extra"}}`,
		"out/sbom.spdx.json":  `{"predicateType":"https://spdx.dev/Document","predicate":{"name":"core","files":[{"fileName":"/etc/passwd"},{"fileName":"etc/old"},{"fileName":"nowhere"},{"fileName":"bin/a","comment":"mine"}]}}`,
	}))
	in := input(t, tr, map[string]string{"containerimage.config": amd64})
	in.Attestations = map[string][]Attestation{"linux/amd64": {
		provenance(),
		{Kind: gatewaypb.AttestationKind_Bundle, Path: "/out", Tree: &sbom, PredicateType: "https://spdx.dev/Document",
			Metadata: map[string][]byte{AttestationSBOMCore: []byte("sbom")}},
	}}
	res := export(t, set, "image", "name=reg:5000/a/b", in, Request{})
	idx := read[ocispecs.Index](t, m.blobs, *res.Descriptor)
	if len(idx.Manifests) != 2 {
		t.Fatalf("index: %+v", idx)
	}
	img, att := idx.Manifests[0], idx.Manifests[1]
	if att.Platform.OS != "unknown" || att.Annotations["vnd.docker.reference.type"] != "attestation-manifest" ||
		att.Annotations["vnd.docker.reference.digest"] != img.Digest.String() {
		t.Errorf("attestation descriptor: %+v", att)
	}
	mf := read[ocispecs.Manifest](t, m.blobs, att)
	if mf.ArtifactType != attestationArtifact || mf.Subject.Digest != img.Digest || string(mf.Config.Data) != "{}" || len(mf.Layers) != 3 {
		t.Errorf("attestation manifest: %+v", mf)
	}
	layers := read[ocispecs.Manifest](t, m.blobs, img).Layers
	core := read[statement](t, m.blobs, mf.Layers[0])
	wantCore := `{"creationInfo":{"creators":["Tool: buildd"]},"files":[{"comment":"layerID: ` + layers[1].Digest.String() +
		`","fileName":"/etc/passwd"},{"comment":"layerID: ` + layers[0].Digest.String() +
		`","fileName":"etc/old"},{"fileName":"nowhere"},{"comment":"mine","fileName":"bin/a"}],"name":"core"}`
	if string(core.Predicate) != wantCore {
		t.Errorf("SBOM of the image:\n%s\nwant\n%s", core.Predicate, wantCore)
	}
	prov := read[statement](t, m.blobs, mf.Layers[1])
	want := statement{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1", Predicate: json.RawMessage(`{"p":1}`),
		Subject: []named{{Name: "pkg:docker/reg:5000/a/b@latest?platform=linux%2Famd64", Digest: map[string]string{"sha256": img.Digest.Encoded()}}},
	}
	if !reflect.DeepEqual(prov, want) {
		t.Errorf("provenance: %+v, want %+v", prov, want)
	}
	extra := read[statement](t, m.blobs, mf.Layers[2])
	if extra.Type != statementType || len(extra.Subject) != 1 || extra.Subject[0].Name != "s" || mf.Layers[2].Annotations["in-toto.io/predicate-type"] != predicateSPDX {
		t.Errorf("extra: %+v", extra)
	}

	res = export(t, set, "image", "oci-artifact=false", in, Request{})
	idx = read[ocispecs.Index](t, m.blobs, *res.Descriptor)
	mf = read[ocispecs.Manifest](t, m.blobs, idx.Manifests[1])
	config := read[ocispecs.Image](t, m.blobs, mf.Config)
	if mf.Subject != nil || mf.ArtifactType != "" || len(config.RootFS.DiffIDs) != 3 || config.OS != "unknown" {
		t.Errorf("plain attestation manifest: %+v, %+v", mf, config)
	}
}

func TestAttestationsRefused(t *testing.T) {
	set, m := testSet(t)
	tr := m.add("", write(t, map[string]string{
		"dir/x": "not json", "link": "-> /etc/passwd", "d/": "",
		"prov/p": `{"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`, "two/p": `{}{}`,
	}))
	inToto, bundle := gatewaypb.AttestationKind_InToto, gatewaypb.AttestationKind_Bundle
	text := func(context.Context) ([]byte, error) { return []byte("{}"), nil }
	for want, a := range map[string]Attestation{
		"does not have set path":                       {Kind: inToto, Content: text},
		"does not have available content":              {Kind: inToto, Path: "x"},
		"no reference provided for attestation bundle": {Kind: bundle},
		"cannot have content of its own":               {Kind: bundle, Content: text, Tree: &tr},
		"unknown kind":                                 {Kind: 7, Path: "x", Content: text},
		"frontend may not set provenance attestations": {Kind: inToto, Path: "dir/x", Tree: &tr, PredicateType: "https://slsa.dev/provenance/v0.2"},
		"frontend may not bundle provenance":           {Kind: bundle, Path: "prov", Tree: &tr},
		"cannot decode in-toto statement":              {Kind: bundle, Path: "dir", Tree: &tr},
		"is not a single JSON object":                  {Kind: bundle, Path: "two", Tree: &tr},
		"does not match required predicate type":       {Kind: bundle, Path: "two", Tree: &tr, PredicateType: "x"},
		"read attestation link":                        {Kind: inToto, Path: "link", Tree: &tr},
		"attestation d: not a regular file":            {Kind: inToto, Path: "d", Tree: &tr},
		"unknown subject kind":                         {Kind: inToto, Path: "x", Content: text, Subjects: []Subject{{Kind: 9}}},
	} {
		if want == "does not match required predicate type" {
			one := m.add("", write(t, map[string]string{"two/p": `{"predicateType":"y"}`}))
			a.Tree = &one
		}
		in := input(t, tr, map[string]string{"containerimage.config": amd64})
		in.Attestations = map[string][]Attestation{"linux/amd64": {a}}
		e, _ := set.Resolve("image", nil)
		if _, err := e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	in := input(t, tr, map[string]string{"containerimage.config": amd64})
	in.Attestations = map[string][]Attestation{"linux/amd64": {{Kind: inToto, Path: "x", Content: text}}}
	e, _ := set.Resolve("image", parse("oci-mediatypes=false"))
	if _, err := e.Export(t.Context(), in, Request{}); err == nil || !strings.Contains(err.Error(), `cannot export attestations with "oci-mediatypes=false"`) {
		t.Errorf("attestations with Docker's types: %v", err)
	}
}

// An attestation that nobody asked for makes an index in a registry only.
func TestInlineOnlyAttestations(t *testing.T) {
	set, m := testSet(t)
	in := input(t, two(t, m), map[string]string{"containerimage.config": amd64})
	in.Attestations = map[string][]Attestation{"linux/amd64": {{
		Kind: gatewaypb.AttestationKind_InToto, Path: "provenance.json", Metadata: map[string][]byte{AttestationInlineOnly: []byte("true")},
		Content: func(context.Context) ([]byte, error) { return []byte("{}"), nil },
	}}}
	for attrs, want := range map[string]string{"image;": ocispecs.MediaTypeImageIndex, "oci;": ocispecs.MediaTypeImageManifest, "oci;attestation-inline=true": ocispecs.MediaTypeImageIndex} {
		var out sink
		typ, rest, _ := strings.Cut(attrs, ";")
		if res := export(t, set, typ, rest, in, Request{Client: client(t, out.target(0))}); res.Descriptor.MediaType != want {
			t.Errorf("%s: %s", attrs, res.Descriptor.MediaType)
		}
	}
}

func TestNewInputRefuses(t *testing.T) {
	for want, f := range map[string]func() (Input, error){
		"no platforms mapping": func() (Input, error) { return NewInput("", map[string]cache.Tree{"a": ""}, nil) },
		"no reference for platform": func() (Input, error) {
			return NewInput("", map[string]cache.Tree{"a": ""}, map[string][]byte{"refs.platforms": []byte(`{"Platforms":[{"ID":"b","Platform":{"os":"linux","architecture":"arm"}}]}`)})
		},
		"single reference": func() (Input, error) {
			return NewInput("", nil, map[string][]byte{"refs.platforms": []byte(`{"Platforms":[{"ID":"b","Platform":{"os":"linux","architecture":"arm"}},{"ID":"c","Platform":{"os":"linux","architecture":"arm"}}]}`)})
		},
		"read platforms": func() (Input, error) { return NewInput("", nil, map[string][]byte{"refs.platforms": []byte(`{}`)}) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}
