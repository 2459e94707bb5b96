package dockerfile

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

const scannerID = "docker-image://docker.io/me/scan:1"

func scanClient(config string) *fakeClient {
	return &fakeClient{
		files:  local(map[string]string{"Dockerfile": "FROM scratch"}),
		opts:   map[string]string{"attest:sbom": "generator=me/scan:1,B=2,A=1"},
		images: map[string]string{scannerID: config},
	}
}

func TestSBOM(t *testing.T) {
	client := scanClient(`{"config":{"Entrypoint":["/scan"],"Cmd":["-x"],"Env":["PATH=/bin","E"],"WorkingDir":"/w"}}`)
	b := mustOpen(t, client)
	s, err := b.newScanner(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := client.resolves[0], scannerID+" platform=linux/amd64 mode=default # [internal] load metadata for docker.io/me/scan:1"; got != want {
		t.Errorf("resolved %s\nwant %s", got, want)
	}
	client.solves = nil
	img := &image{platform: exptypes.Platform{ID: "linux/arm64"}, lowered: &lower.Result{
		NoCache: true,
		Scan: lower.ScanTargets{
			Core:   llb.Scratch().File(llb.Mkdir("/core", 0o755)),
			Extras: map[string]llb.State{"context": llb.Local("context", llb.SessionID("s")), "build": llb.Scratch().File(llb.Mkdir("/b", 0o755))},
		},
	}}
	res := gwclient.NewResult()
	if err := s.attest(context.Background(), res, []*image{img}); err != nil {
		t.Fatal(err)
	}
	as := res.Attestations["linux/arm64"]
	if len(as) != 1 || as[0].Kind != gwpb.AttestationKind_Bundle || as[0].Ref == nil || as[0].InToto.PredicateType != "https://spdx.dev/Document" ||
		string(as[0].Metadata["reason"]) != "sbom" || string(as[0].Metadata["sbom-core"]) != "sbom" {
		t.Errorf("attestation %+v", as)
	}
	def := client.solves[0].Definition
	ops, names := loadOps(def)
	i := slices.IndexFunc(ops, func(o *pb.Op) bool { return o.GetExec() != nil })
	exec := ops[i].GetExec()
	if want := "[linux/arm64] generating sbom using docker.io/me/scan:1"; names[i] != want {
		t.Errorf("vertex %q, want %q", names[i], want)
	}
	if got := strings.Join(exec.Meta.Args, " "); got != "/scan -x" || exec.Meta.Cwd != "/w" {
		t.Errorf("runs %q in %s", got, exec.Meta.Cwd)
	}
	wantEnv := "PATH=/bin E= BUILDKIT_SCAN_DESTINATION=/run/out/ BUILDKIT_SCAN_SOURCE=/run/src/core/sbom " +
		"BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras BUILDKIT_SCAN_A=1 BUILDKIT_SCAN_B=2"
	if got := strings.Join(exec.Meta.Env, " "); got != wantEnv {
		t.Errorf("environment %s\nwant %s", got, wantEnv)
	}
	var mounts []string
	for _, m := range exec.Mounts {
		mode := "rw"
		if m.Readonly {
			mode = "ro"
		}
		mounts = append(mounts, m.Dest+" "+mode+" "+m.MountType.String())
	}
	slices.Sort(mounts)
	want := []string{"/ rw BIND", "/run/out/ rw BIND", "/run/src/core/sbom ro BIND", "/run/src/extras/sbom-build ro BIND", "/run/src/extras/sbom-context ro BIND", "/tmp rw TMPFS"}
	if !slices.Equal(mounts, want) {
		t.Errorf("mounts %q\nwant %q", mounts, want)
	}
	ignored := false
	for _, m := range def.Metadata {
		ignored = ignored || m.IgnoreCache
	}
	if !ignored {
		t.Error("a scan of a build without cache is cached")
	}
}

func TestSBOMErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{}`: "has no entrypoint and no command",
		`x`:  "parse config of sbom scanner",
	} {
		if _, err := mustOpen(t, scanClient(config)).newScanner(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", config, err, want)
		}
	}
	c := scanClient("")
	c.images = nil
	if _, err := mustOpen(t, c).newScanner(context.Background()); err == nil || !strings.Contains(err.Error(), "find sbom scanner docker.io/me/scan:1") {
		t.Errorf("no image: %v", err)
	}
	if s, err := mustOpen(t, &fakeClient{files: c.files}).newScanner(context.Background()); s != nil || err != nil {
		t.Errorf("not asked for: %v, %v", s, err)
	}
}
