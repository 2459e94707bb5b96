package attest

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/buildd/buildd/frontend/sbom"
)

func TestParse(t *testing.T) {
	plain := Provenance{Version: V1, Filename: "provenance.json"}
	with := func(set func(*Provenance)) *Provenance {
		p := plain
		set(&p)
		return &p
	}
	for name, c := range map[string]struct {
		opts map[string]string
		want Options
	}{
		"none":     {map[string]string{"target": "x"}, Options{}},
		"default":  {map[string]string{"attest:provenance": ""}, Options{Provenance: &plain}},
		"argument": {map[string]string{"build-arg:BUILDKIT_ATTEST_PROVENANCE": "mode=min"}, Options{Provenance: with(func(p *Provenance) { p.Minimal = true })}},
		"all": {
			map[string]string{"attest:provenance": "mode=full,version=v0.2,builder-id=me,filename=p.json,reproducible=true,inline-only=1,complete-materials=true,capture-usage=true,disabled=false"},
			Options{Provenance: &Provenance{Version: V02, Filename: "p.json", Builder: "me", Reproducible: true, InlineOnly: true, Complete: true, Usage: true}},
		},
		"quoted": {map[string]string{"attest:provenance": `"builder-id=a,b"`}, Options{Provenance: with(func(p *Provenance) { p.Builder = "a,b" })}},
		"sbom": {
			map[string]string{"attest:sbom": "generator=me/scan,PARAM=x"},
			Options{SBOM: &sbom.Options{Scanner: "docker.io/me/scan:latest", Params: map[string]string{"PARAM": "x"}}},
		},
	} {
		got, err := Parse(c.opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v %+v", name, got.Provenance, got.SBOM)
		}
	}
	for v, want := range map[string]string{
		"attest:other=":                              `unknown attestation type "other"`,
		"attest:sbom=generator=":                     "sbom generator cannot be empty",
		"attest:sbom=generator=A B":                  "sbom generator",
		"attest:provenance=mode=most":                `invalid mode "most"`,
		"attest:provenance=version=":                 "provenance SLSA version cannot be empty",
		"attest:provenance=version=v2":               "invalid provenance SLSA version: v2",
		"attest:provenance=reproducible=perhaps":     `failed to parse reproducible flag "perhaps"`,
		"attest:provenance=complete-materials=maybe": "failed to parse complete-materials flag",
		"attest:provenance=filename=../x":            "without a slash",
		`attest:provenance="`:                        "failed to parse provenance",
	} {
		k, v, _ := strings.Cut(v, "=")
		if _, err := Parse(map[string]string{k: v}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s=%s: error %v, want %q", k, v, err, want)
		}
	}
}

func TestRecorded(t *testing.T) {
	if p := Recorded(Options{}); p.Minimal || p.Version != V1 || p.Usage || p.Builder != "" {
		t.Errorf("%+v", p)
	}
	if p := Recorded(Options{Provenance: &Provenance{Builder: "me", Minimal: true, Version: V02, Usage: true}}); p.Minimal || !p.Usage || p.Version != V1 || p.Builder != "me" {
		t.Errorf("%+v", p)
	}
}

func TestReadEnv(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", `{"a": 1, "b": "first"}`)
	write("b.json", `{"b": "second"}`)
	write("c.txt", "no JSON")
	env, err := ReadEnv(dir)
	if err != nil || !reflect.DeepEqual(env, map[string]any{"a": 1.0, "b": "second"}) {
		t.Errorf("%v %v", env, err)
	}
	if env, err := ReadEnv(filepath.Join(dir, "none")); env != nil || err != nil {
		t.Errorf("no directory: %v %v", env, err)
	}
	for text, want := range map[string]string{
		`[1]`:                    "want a JSON object",
		`{"builderPlatform": 1}`: `"builderPlatform" is builtin`,
		`{"platform": 1}`:        `"platform" is builtin`,
	} {
		write("d.json", text)
		if _, err := ReadEnv(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("mode=max,version=v1")
	f.Add(`"builder-id=a,b",filename=x`)
	f.Fuzz(func(t *testing.T, v string) {
		o, err := Parse(map[string]string{"attest:provenance": v})
		if err != nil {
			return
		}
		if p := o.Provenance; p == nil || (p.Version != V1 && p.Version != V02) || p.Filename == "" || strings.ContainsRune(p.Filename, '/') {
			t.Errorf("%q became %+v", v, p)
		}
	})
}
