package attest

import (
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pass@example.com/x": "https://xxxxx:xxxxx@example.com/x",
		"https://token@example.com/x":     "https://xxxxx@example.com/x",
		"https://:pass@example.com/x":     "https://:xxxxx@example.com/x",
		"https://example.com/x":           "https://example.com/x",
		"git@github.com:me/repo.git":      "git@github.com:me/repo.git",
		"local:dir":                       "local:dir",
		"%zz":                             "%zz",
	} {
		if got := redact(in); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}

func TestMaterials(t *testing.T) {
	d := digest.FromString("x")
	hex := map[string]string{"sha256": d.Encoded()}
	sha256 := "0123456789012345678901234567890123456789012345678901234567890123"
	arm := &ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	var s sources
	s.addImage(Image{Ref: "docker.io/library/busybox:latest", Platform: arm, Digest: d})
	s.addImage(Image{Ref: "docker.io/library/busybox:latest", Platform: &ocispecs.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, Digest: d})
	s.addImage(Image{Ref: "example.com/a/b/c@" + d.String(), Digest: d})
	s.addImage(Image{Ref: "docker.io/library/base@" + d.String(), Digest: d, Layout: true})
	s.addBlob(Blob{Ref: "example.com/files@" + d.String(), Digest: d})
	s.addBlob(Blob{Ref: "example.com/files@" + d.String(), Digest: d})
	s.addGit(Git{URL: "https://a:b@example.com/r.git#v1", Commit: commitID})
	s.addGit(Git{URL: "https://a:b@example.com/r.git#v1", Commit: commitID})
	s.addGit(Git{URL: "https://example.com/r.git#v1", Commit: sha256, Bundle: "docker-image+blob://example.com/bundles@" + d.String()})
	s.addHTTP(Download{URL: "https://example.com/f", Digest: d})
	s.addHTTP(Download{URL: "https://example.com/f", Digest: d})
	s.addLocal("context")
	s.addLocal("context")
	got, err := s.materials()
	if err != nil {
		t.Fatal(err)
	}
	want := []material{
		{"pkg:docker/busybox@latest?platform=linux%2Farm64", hex},
		{"pkg:docker/example.com/a/b/c?digest=" + d.String(), hex},
		{"pkg:oci/base?digest=" + d.String(), hex},
		{"pkg:docker/example.com/files?digest=" + d.String() + "&ref_type=blob", hex},
		{"https://xxxxx:xxxxx@example.com/r.git#v1", map[string]string{"sha1": commitID}},
		{"https://example.com/r.git#v1", map[string]string{"sha256": sha256}},
		{"pkg:docker/example.com/bundles@latest?ref_type=bundle&vcs_url=https:%2F%2Fexample.com%2Fr.git%23v1", hex},
		{"https://example.com/f", hex},
	}
	if !reflect.DeepEqual(got, want) {
		for i := range got {
			t.Logf("%v", got[i])
		}
		t.Error("not as wanted")
	}
	if len(s.locals) != 1 {
		t.Errorf("locals %q", s.locals)
	}
	for _, bad := range []sources{
		{images: []Image{{Ref: "UPPER"}}},
		{git: []Git{{URL: "https://example.com/r.git", Bundle: "docker-image+blob://example.com/x"}}},
	} {
		if _, err := bad.materials(); err == nil {
			t.Errorf("%+v is told", bad)
		}
	}
}

func TestConfigSource(t *testing.T) {
	d := digest.FromString("x")
	s := sources{git: []Git{{URL: "https://example.com/r.git#v1", Commit: commitID}}, http: []Download{{URL: "https://example.com/x.tar", Digest: d}}}
	for in, want := range map[string]ConfigSource{
		"https://example.com/r.git#v1:sub/":  {URI: "https://example.com/r.git#v1:sub", Digest: map[string]string{"sha1": commitID}},
		"https://example.com/r.git#v1":       {URI: "https://example.com/r.git#v1", Digest: map[string]string{"sha1": commitID}},
		"https://example.com/r.git#other":    {URI: "https://example.com/r.git#other"},
		"https://example.com/x.tar":          {URI: "https://example.com/x.tar", Digest: map[string]string{"sha256": d.Encoded()}},
		"https://u:p@example.com/secret.tar": {URI: "https://xxxxx:xxxxx@example.com/secret.tar"},
	} {
		if got := s.config(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", in, got, want)
		}
	}
	i := invocation("dockerfile.v0", map[string]string{"contextkey": "mine", "mine": "https://example.com/x.tar", "filename": "f"}, s)
	if i.ConfigSource.URI != "https://example.com/x.tar" || i.ConfigSource.Path != "f" || !reflect.DeepEqual(i.Request.Args, map[string]string{"contextkey": "mine"}) {
		t.Errorf("%+v %+v", i, i.Request)
	}
}
