package option

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/session/secrets"
)

func TestCaches(t *testing.T) {
	for _, n := range []string{"ACTIONS_CACHE_SERVICE_V2", "ACTIONS_RESULTS_URL", "ACTIONS_CACHE_URL", "ACTIONS_RUNTIME_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(n, "")
	}
	check := func(value string, kind string, want ...string) {
		t.Helper()
		got, err := CacheExports([]string{value})
		if err != nil {
			t.Errorf("%s: %v", value, err)
			return
		}
		attrs, err := Pairs(want)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Type != kind || !maps.Equal(got[0].Attrs, attrs) {
			t.Errorf("%s: %+v", value, got[0])
		}
	}
	check("user/app:cache", "registry", "ref=user/app:cache", "mode=min")
	check("type=registry,ref=user/app:cache,mode=max", "registry", "ref=user/app:cache", "mode=max")
	check("type=inline", "inline")
	check("type=local,dest=d", "local", "dest=d", "mode=min")

	t.Setenv("ACTIONS_CACHE_URL", "https://one")
	t.Setenv("ACTIONS_RUNTIME_TOKEN", "tok")
	check("type=gha", "gha", "url=https://one", "token=tok", "mode=min")
	t.Setenv("ACTIONS_CACHE_SERVICE_V2", "true")
	t.Setenv("ACTIONS_RESULTS_URL", "https://two")
	check("type=gha,scope=x", "gha", "url=https://one", "url_v2=https://two", "token=tok", "mode=min", "scope=x")
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	check("type=s3,bucket=b", "s3", "bucket=b", "access_key_id=id", "secret_access_key=key", "mode=min")
	check("type=s3,bucket=b,access_key_id=mine", "s3", "bucket=b", "access_key_id=mine", "mode=min")

	if got, err := CacheImports([]string{"user/app", "type=local,src=d"}); err != nil || got[0].Attrs["ref"] != "user/app" || got[1].Attrs["src"] != "d" {
		t.Errorf("imports: %+v, %v", got, err)
	}
}

func TestBadCaches(t *testing.T) {
	t.Setenv("ACTIONS_CACHE_URL", "")
	t.Setenv("ACTIONS_RESULTS_URL", "")
	t.Setenv("ACTIONS_RUNTIME_TOKEN", "")
	for value, want := range map[string]string{
		"ref=x":                   "want type=TYPE",
		"type=registry":           "want ref=",
		"type=local":              "want dest=DIR",
		"type=local,dest=d,mode=": "want min or max",
		"type=gha":                "$ACTIONS_CACHE_URL",
		"type=gha,url=x":          "$ACTIONS_RUNTIME_TOKEN",
	} {
		if _, err := CacheExports([]string{value}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one with %q", value, err, want)
		}
	}
	if _, err := CacheImports([]string{"type=local"}); err == nil || !strings.Contains(err.Error(), "want src=DIR") {
		t.Errorf("import: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("TOKEN", "from env")
	for name, text := range map[string]string{"token.txt": "from file", "byname": "by its name"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Secrets([]string{"id=f,src=token.txt", "id=e,env=TOKEN", "id=t,type=env,src=TOKEN", "id=TOKEN", "id=byname", "id=s,source=token.txt"})
	if err != nil {
		t.Fatal(err)
	}
	server, ok := p.(interface {
		GetSecret(context.Context, *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error)
	})
	if !ok {
		t.Fatalf("%T hands out no secrets", p)
	}
	for id, want := range map[string]string{"f": "from file", "e": "from env", "t": "from env", "TOKEN": "from env", "byname": "by its name", "s": "from file"} {
		got, err := server.GetSecret(t.Context(), &secrets.GetSecretRequest{ID: id})
		if err != nil || string(got.Data) != want {
			t.Errorf("%s: %q, %v", id, got.GetData(), err)
		}
	}
}

func TestBadSecrets(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 600<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"src=x":                         "has no id",
		"id":                            `field "id" has no value`,
		"id=x,src=/nope":                "/nope",
		"id=x,src=" + dir:               "is a directory",
		"id=x,src=" + big:               "a secret may have",
		"id=x,env=NOT_SET_ANYWHERE":     "NOT_SET_ANYWHERE is not set",
		"id=x,file=y":                   `field "file" is not known`,
		"id=x,type=vault":               "want file or env",
		"id=x,src=" + big + ",env=HOME": "both a file and a variable",
	} {
		if _, err := Secrets([]string{value}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), value[:2]) {
			t.Errorf("%q: error is %v, want one with %q", value, err, want)
		}
	}
}

func TestSSH(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	if a, err := agent("x=/run/a,raw=true"); err != nil || a.ID != "x" || !a.Raw || len(a.Paths) != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := agent("default"); err != nil || a.ID != "default" || a.Paths != nil {
		t.Errorf("%+v, %v", a, err)
	}
	for value, want := range map[string]string{
		"default":              "SSH_AUTH_SOCK",
		"x=/nope/key":          "/nope/key",
		"x=/run/a,raw=perhaps": "true or false",
		"x=raw=true":           "want the one of a socket",
	} {
		if _, err := SSH([]string{value}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one with %q", value, err, want)
		}
	}
}

func TestAttestations(t *testing.T) {
	for _, c := range []struct {
		attest           []string
		provenance, sbom string
		want             map[string]string
	}{
		{want: map[string]string{}},
		{provenance: "true", want: map[string]string{"attest:provenance": ""}},
		{provenance: "false", want: map[string]string{}},
		{provenance: "mode=max", sbom: "true", want: map[string]string{"attest:provenance": "mode=max", "attest:sbom": ""}},
		{sbom: "user/scanner:1", want: map[string]string{"attest:sbom": "generator=user/scanner:1"}},
		{attest: []string{"type=provenance,mode=min,version=v1"}, want: map[string]string{"attest:provenance": "mode=min,version=v1"}},
		{attest: []string{"type=provenance,mode=min", "type=provenance,disabled=true"}, want: map[string]string{}},
		{attest: []string{"type=provenance,mode=min"}, provenance: "mode=max", want: map[string]string{"attest:provenance": "mode=max"}},
		{attest: []string{"type=sbom,generator=a,PARAM=x"}, want: map[string]string{"attest:sbom": "generator=a,PARAM=x"}},
		{attest: []string{`type=sbom,"generator=a,b"`}, want: map[string]string{"attest:sbom": `"generator=a,b"`}},
	} {
		got, err := Attestations(c.attest, c.provenance, c.sbom)
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	for _, bad := range []string{"mode=max", "type=nope", "type=sbom,disabled=perhaps"} {
		if _, err := Attestations([]string{bad}, "", ""); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestRegistryTLS(t *testing.T) {
	got, err := RegistryTLS([]string{"host=https://a,ca=1.crt", "host=https://a,ca=2.crt,cert=c,key=k", "host=https://b,insecure=true"})
	if err != nil {
		t.Fatal(err)
	}
	if a := got["https://a"]; len(a.RootCAs) != 2 || len(a.KeyPairs) != 1 || a.Insecure {
		t.Errorf("a: %+v", a)
	}
	if b := got["https://b"]; !b.Insecure {
		t.Errorf("b: %+v", b)
	}
	for _, bad := range []string{"ca=x", "host=a", "host=a,ca=x,key=y", "host=a,insecure=perhaps", "host=a,pin=x"} {
		if _, err := RegistryTLS([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestFrontendValues(t *testing.T) {
	t.Setenv("SET", "value")
	opts, err := Opts([]string{"target=x", "build-arg:A=1=2", "build-arg:SET", "build-arg:NOT_SET_ANYWHERE", "target=y"})
	if want := map[string]string{"target": "y", "build-arg:A": "1=2", "build-arg:SET": "value"}; err != nil || !maps.Equal(opts, want) {
		t.Errorf("opts: %v, %v", opts, err)
	}
	args := map[string]string{}
	if err := BuildArgs(args, []string{"A=", "SET", "NOT_SET_ANYWHERE"}); err != nil || !maps.Equal(args, map[string]string{"build-arg:A": "", "build-arg:SET": "value"}) {
		t.Errorf("build args: %v, %v", args, err)
	}
	for _, c := range []struct {
		name string
		f    func([]string) (string, error)
		in   string
		want string // "": an error
	}{
		{"hosts", Hosts, "a:1.2.3.4", "a=1.2.3.4"}, {"hosts", Hosts, "a=::1", "a=::1"}, {"hosts", Hosts, "a:[::1]", "a=::1"}, {"hosts", Hosts, "a:::1", "a=::1"},
		{"hosts", Hosts, "a:host-gateway", "a=host-gateway"}, {"hosts", Hosts, "a", ""}, {"hosts", Hosts, "a:b", ""}, {"hosts", Hosts, ":1.2.3.4", ""},
		{"platforms", Platforms, "linux/amd64,linux/arm64", "linux/amd64,linux/arm64"}, {"platforms", Platforms, "linux/amd64/x/y/z", ""}, {"platforms", Platforms, "", ""},
		{"ulimits", Ulimits, "nofile=1:2", "nofile=1:2"}, {"ulimits", Ulimits, "nofile=1", "nofile=1:1"}, {"ulimits", Ulimits, "nope=1", ""}, {"ulimits", Ulimits, "nofile=2:1", ""},
	} {
		got, err := c.f([]string{c.in})
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %q: %q, %v", c.name, c.in, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), `"`+c.in+`"`) {
			t.Errorf("%s %q: the error does not say so: %v", c.name, c.in, err)
		}
	}
	if s, err := Size("64m"); err != nil || s != "67108864" {
		t.Errorf("64m: %s, %v", s, err)
	}
	for _, bad := range []string{"x", "-1", ""} {
		if s, err := Size(bad); err == nil {
			t.Errorf("%q: %s", bad, s)
		}
	}
	tags, err := Tags([]string{"a", "host:5000/b:c,d"})
	if err != nil || strings.Join(tags, " ") != "docker.io/library/a:latest host:5000/b:c docker.io/library/d:latest" {
		t.Errorf("tags: %q, %v", tags, err)
	}
	for _, bad := range []string{"A", "a:b:c", "", "a@sha256:" + strings.Repeat("0", 64)} {
		if _, err := Tags([]string{bad}); err == nil {
			t.Errorf("tag %q is accepted", bad)
		}
	}
	if err := Entitlements([]string{"network.host", "security.insecure", "device=x"}); err != nil {
		t.Error(err)
	}
	if err := Entitlements([]string{"network"}); err == nil {
		t.Error("an entitlement that there is none of is accepted")
	}
}

func TestLayouts(t *testing.T) {
	dir := t.TempDir()
	if _, err := Layouts([]string{"a=" + dir}); err == nil || !strings.Contains(err.Error(), "no OCI layout") {
		t.Errorf("an empty directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Layouts([]string{"a=" + dir}); err != nil || got["a"] == nil {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Locals([]string{"a=/nope"}); err == nil || !strings.Contains(err.Error(), `"a=/nope"`) {
		t.Errorf("locals: %v", err)
	}
	if _, err := Locals([]string{"nope"}); err == nil || !strings.Contains(err.Error(), "KEY=VALUE") {
		t.Errorf("locals: %v", err)
	}
}
