package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// statement is an in-toto statement with what these tests look at.
type statement struct {
	Type          string `json:"_type"`
	PredicateType string
	Subject       []struct {
		Name   string
		Digest map[string]string
	}
	Predicate json.RawMessage
}

// provenance is the part of a SLSA v1 predicate that these tests look at.
type provenance struct {
	BuildDefinition struct {
		ExternalParameters struct {
			Request struct {
				Frontend string
				Args     map[string]string
				Secrets  []struct{ ID string }
			}
		}
		InternalParameters struct {
			BuildConfig *struct{ LLBDefinition []struct{ ID string } }
			Site        string
		}
		ResolvedDependencies []struct {
			URI    string
			Digest map[string]string
		}
	}
	RunDetails struct {
		Metadata struct {
			InvocationID string
			Extension    struct {
				Source struct{ Infos []struct{ Data []byte } }
				Layers map[string][][]ocispecs.Descriptor
			} `json:"buildkit_metadata"`
		}
	}
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v:\n%s", err, data)
	}
	return v
}

// image is an OCI archive: its blobs, and the manifests of its one index.
type image struct {
	t         *testing.T
	blobs     map[string][]byte // by digest
	manifests []ocispecs.Descriptor
}

func readImage(t *testing.T, path string) image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img := image{t: t, blobs: map[string][]byte{}}
	var top ocispecs.Index
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			img.blobs["sha256:"+name] = data
		}
		if h.Name == "index.json" {
			top = decode[ocispecs.Index](t, data)
		}
	}
	if len(top.Manifests) != 1 || top.Manifests[0].MediaType != ocispecs.MediaTypeImageIndex {
		t.Fatalf("%s: the archive holds %+v, want one index", path, top.Manifests)
	}
	img.manifests = decode[ocispecs.Index](t, img.blobs[top.Manifests[0].Digest.String()]).Manifests
	return img
}

// attested returns the statements about the image for a platform, and its digest.
func (img image) attested(platform string) ([]statement, digest.Digest) {
	img.t.Helper()
	var of digest.Digest
	for _, d := range img.manifests {
		if d.Platform != nil && d.Platform.OS+"/"+d.Platform.Architecture == platform {
			of = d.Digest
		}
	}
	for _, d := range img.manifests {
		if of == "" || d.Annotations["vnd.docker.reference.digest"] != of.String() {
			continue
		}
		var out []statement
		for _, l := range decode[ocispecs.Manifest](img.t, img.blobs[d.Digest.String()]).Layers {
			s := decode[statement](img.t, img.blobs[l.Digest.String()])
			if s.Type != "https://in-toto.io/Statement/v1" || l.Annotations["in-toto.io/predicate-type"] != s.PredicateType {
				img.t.Errorf("statement %s of type %s in a layer %v", s.PredicateType, s.Type, l.Annotations)
			}
			out = append(out, s)
		}
		return out, of
	}
	img.t.Fatalf("nothing attests to the image for %s: %+v", platform, img.manifests)
	return nil, ""
}

const attestedDockerfile = `FROM busybox:latest AS build
ARG GREETING
RUN --mount=type=secret,id=token,required=true cat /run/secrets/token >/dev/null && echo "$GREETING" > /hello
FROM scratch
COPY --from=build /hello /hello
`

func attestedContext(t *testing.T) (dir, secret string) {
	dir = buildContext(t, map[string]string{"Dockerfile": attestedDockerfile})
	secret = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, secret
}

func TestProvenanceOfImage(t *testing.T) {
	site := t.TempDir()
	if err := os.WriteFile(filepath.Join(site, "site.json"), []byte(`{"site": "here"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "buildkitd.toml")
	if err := os.WriteFile(config, []byte("provenanceEnvDir = \""+site+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, "--config", config)
	d.busybox()
	dir, secret := attestedContext(t)
	build := func(attest string) (provenance, image, []byte) {
		archive := filepath.Join(t.TempDir(), "image.tar")
		d.ctl("build", "--attest", "type=provenance,"+attest, "--secret", "id=token,src="+secret, "--build-arg", "GREETING=hi",
			"-o", "type=oci,dest="+archive, dir)
		img := readImage(t, archive)
		list, of := img.attested("linux/amd64")
		if len(list) != 1 || list[0].PredicateType != "https://slsa.dev/provenance/v1" {
			t.Fatalf("attested %+v", list)
		}
		for _, s := range list[0].Subject {
			if s.Digest["sha256"] != of.Encoded() {
				t.Errorf("subject %+v, the image is %s", s, of)
			}
		}
		return decode[provenance](t, list[0].Predicate), img, list[0].Predicate
	}

	p, img, raw := build("mode=max")
	if strings.Contains(string(raw), "hunter2") {
		t.Error("the value of the secret is told")
	}
	req := p.BuildDefinition.ExternalParameters.Request
	if req.Frontend != "dockerfile.v0" || req.Args["build-arg:GREETING"] != "hi" || len(req.Secrets) != 1 || req.Secrets[0].ID != "token" {
		t.Errorf("request %+v", req)
	}
	deps := p.BuildDefinition.ResolvedDependencies
	if len(deps) != 1 || !strings.HasPrefix(deps[0].URI, "pkg:docker/busybox@latest?platform=") || len(deps[0].Digest["sha256"]) != 64 {
		t.Errorf("made of %+v", deps)
	}
	if got := p.BuildDefinition.InternalParameters; got.BuildConfig == nil || len(got.BuildConfig.LLBDefinition) < 4 || got.Site != "here" {
		t.Errorf("internal parameters %+v", got)
	}
	ext := p.RunDetails.Metadata.Extension
	if len(ext.Source.Infos) != 1 || string(ext.Source.Infos[0].Data) != attestedDockerfile {
		t.Errorf("sources %+v", ext.Source)
	}
	// The layer of the result is one of the image.
	manifest := slices.IndexFunc(img.manifests, func(d ocispecs.Descriptor) bool { return d.Platform.OS == "linux" })
	last := decode[ocispecs.Manifest](t, img.blobs[img.manifests[manifest].Digest.String()]).Layers[0].Digest
	told := false
	for _, chains := range ext.Layers {
		told = told || chains[0][len(chains[0])-1].Digest == last
	}
	if !told {
		t.Errorf("layers %v: %s is missing", ext.Layers, last)
	}

	again, _, _ := build("mode=max")
	if len(again.RunDetails.Metadata.Extension.Layers) != len(ext.Layers) || again.RunDetails.Metadata.InvocationID == p.RunDetails.Metadata.InvocationID {
		t.Errorf("a cached build tells %+v", again.RunDetails.Metadata)
	}

	p, _, raw = build("mode=min")
	if p.BuildDefinition.InternalParameters.BuildConfig != nil || strings.Contains(string(raw), "GREETING") || strings.Contains(string(raw), "token") {
		t.Errorf("minimal provenance tells\n%s", raw)
	}
	d.fails([]string{`invalid mode "most"`}, "build", "--attest", "type=provenance,mode=most", "--secret", "id=token,src="+secret, dir)
	d.fails([]string{"provenance materials are incomplete", "dockerfile"}, "build", "--attest", "type=provenance,complete-materials=true",
		"--secret", "id=token,src="+secret, "-o", "type=oci,dest="+filepath.Join(t.TempDir(), "x.tar"), dir)
}

func TestProvenanceOfFiles(t *testing.T) {
	d := startWithBusybox(t)
	dir, secret := attestedContext(t)
	out := t.TempDir()
	d.ctl("build", "--attest", "type=provenance,filename=made.json", "--secret", "id=token,src="+secret, "--build-arg", "GREETING=hi", "-o", out, dir)
	data, err := os.ReadFile(filepath.Join(out, "made.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := decode[statement](t, data)
	sum := sha256.Sum256([]byte("hi\n"))
	if len(s.Subject) != 1 || s.Subject[0].Name != "hello" || s.Subject[0].Digest["sha256"] != hex.EncodeToString(sum[:]) {
		t.Errorf("subjects %+v", s.Subject)
	}

	// What makes no sense without an image is left out.
	out = t.TempDir()
	d.ctl("build", "--attest", "type=provenance,inline-only=true", "--secret", "id=token,src="+secret, "-o", out, dir)
	if names, _ := filepath.Glob(filepath.Join(out, "*.json")); len(names) > 0 {
		t.Errorf("files %q", names)
	}
}

const scannerDockerfile = `FROM busybox:latest
COPY --chmod=755 <<"EOF" /scan.sh
#!/bin/sh
set -e
files=$(cd "$BUILDKIT_SCAN_SOURCE" && find . -type f | sort | sed 's|^./\(.*\)|{"fileName": "\1"}|' | paste -sd,)
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<DOC
{"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"name": "$BUILDKIT_SCAN_NAME", "files": [$files]}}
DOC
EOF
ENTRYPOINT ["/scan.sh"]
`

func TestSBOM(t *testing.T) {
	d := startWithBusybox(t)
	d.ctl("build", "-t", "scanner:1", buildContext(t, map[string]string{"Dockerfile": scannerDockerfile}))
	dir, secret := attestedContext(t)
	archive := filepath.Join(t.TempDir(), "image.tar")
	d.ctl("build", "--attest", "type=sbom,generator=scanner:1,NAME=mine", "--attest", "type=provenance", "--secret", "id=token,src="+secret,
		"-o", "type=oci,dest="+archive, dir)
	list, _ := readImage(t, archive).attested("linux/amd64")
	if len(list) != 2 || list[0].PredicateType != "https://spdx.dev/Document" || list[1].PredicateType != "https://slsa.dev/provenance/v1" {
		t.Fatalf("attested %+v", list)
	}
	doc := decode[struct {
		Name  string
		Files []struct{ FileName, Comment string }
	}](t, list[0].Predicate)
	if doc.Name != "mine" || len(doc.Files) != 1 || doc.Files[0].FileName != "hello" || !strings.HasPrefix(doc.Files[0].Comment, "layerID: sha256:") {
		t.Errorf("document %+v", doc)
	}
	d.fails([]string{"sbom generator cannot be empty"}, "build", "--attest", "type=sbom,generator=", dir)
	d.fails([]string{`unknown attestation type "other"`}, "build", "--opt", "attest:other=", dir)
}

// TestSBOMWithoutFrontend asks for a bill of materials of LLB, which the daemon
// itself has to have made.
func TestSBOMWithoutFrontend(t *testing.T) {
	d := startWithBusybox(t)
	d.ctl("build", "-t", "scanner:1", buildContext(t, map[string]string{"Dockerfile": scannerDockerfile}))
	def, err := llb.Scratch().File(llb.Mkfile("/made", 0o644, []byte("by hand"))).Marshal(t.Context(), llb.LinuxAmd64)
	if err != nil {
		t.Fatal(err)
	}
	var stdin bytes.Buffer
	if err := llb.WriteTo(def, &stdin); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "image.tar")
	r := d.input(t.Context(), stdin.String(), "build", "--opt", "attest:sbom=generator=scanner:1", "--opt", "attest:provenance=mode=max",
		"--output", "type=oci,dest="+archive)
	if r.Exit != 0 {
		t.Fatalf("%s%s", r.Out, r.Err)
	}
	list, _ := readImage(t, archive).attested("linux/amd64")
	if len(list) != 2 || !strings.Contains(string(list[0].Predicate), `"made"`) {
		t.Fatalf("attested %+v", list)
	}
	p := decode[provenance](t, list[1].Predicate)
	if len(p.BuildDefinition.ResolvedDependencies) != 0 || p.BuildDefinition.ExternalParameters.Request.Frontend != "" {
		t.Errorf("made of %+v: the scanner is no part of the image", p.BuildDefinition)
	}
}

func TestRecordsTellHowAndWhy(t *testing.T) {
	d := startWithBusybox(t)
	conn, err := grpc.NewClient(d.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, blobs := control.NewControlClient(conn), proxy.NewContentStore(conn)
	read := func(desc *control.Descriptor) string {
		t.Helper()
		if desc == nil {
			t.Fatal("the record has no such blob")
		}
		b, err := content.ReadBlob(t.Context(), blobs, ocispecs.Descriptor{Digest: digest.Digest(desc.Digest), Size: desc.Size})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	records := func() (out []*control.BuildHistoryRecord) {
		t.Helper()
		events, err := c.ListenBuildHistory(t.Context(), &control.BuildHistoryRequest{EarlyExit: true})
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, err := events.Recv()
			if errors.Is(err, io.EOF) {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Record.Frontend != "" { // to import an image is a build too
				out = append(out, e.Record)
			}
		}
	}
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo well\n", "Bad": "FROM busybox:latest\nRUN exit 7\n"})
	d.ctl("build", "-t", "recorded", dir)
	d.fails(nil, "build", "-f", filepath.Join(dir, "Bad"), dir)
	for _, rec := range records() {
		if _, err := c.UpdateBuildHistory(t.Context(), &control.UpdateBuildHistoryRequest{Ref: rec.Ref, Finalize: true}); err != nil {
			t.Fatal(err)
		}
	}
	all := records()
	if len(all) != 2 {
		t.Fatalf("%d records", len(all))
	}
	for _, rec := range all {
		trace := read(rec.Trace)
		if log := d.ctl("debug", "logs", rec.Ref); !strings.Contains(log.Out+log.Err, "RUN ") {
			t.Errorf("log %s%s", log.Out, log.Err)
		}
		if rec.Error == nil {
			if as := rec.Result.GetAttestations(); len(as) != 1 || !strings.Contains(read(as[0]), "pkg:docker/busybox@latest") || !strings.Contains(trace, "RUN echo well") {
				t.Errorf("attestations %v, trace\n%s", as, trace)
			}
			continue
		}
		if !strings.Contains(trace, "RUN exit 7") || !strings.Contains(read(rec.ExternalError), "stack.Stack+json") {
			t.Errorf("the error has no stack, or the trace not its step:\n%s", trace)
		}
	}
}
