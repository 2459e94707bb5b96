package option

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
)

func TestOutputs(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		value  string
		docker bool
		kind   string
		dir    string
		file   bool
		attrs  map[string]string
	}{
		{value: "out", kind: "local", dir: "out"},
		{value: "out.tar", kind: "local", dir: "out.tar"}, // as docker has it
		{value: "a:b", kind: "local", dir: "a:b"},
		{value: "-", kind: "tar", file: true},
		{value: "type=tar,dest=x.tar", kind: "tar", file: true},
		{value: "type=local,dest=out,platform-split=false", kind: "local", dir: "out", attrs: map[string]string{"platform-split": "false"}},
		{value: "type=oci,dest=x.tar,compression=zstd", kind: "oci", file: true, attrs: map[string]string{"compression": "zstd"}},
		{value: "type=oci,dest=layout,tar=false", kind: "oci", dir: "layout", attrs: map[string]string{"tar": "false"}},
		{value: "type=docker,dest=x.tar", kind: "docker", file: true},
		{value: "type=docker", docker: true, kind: "image"},
		{value: "type=docker", kind: "docker", file: true},
		{value: "type=image,name=a,push=true", kind: "image", attrs: map[string]string{"name": "a", "push": "true"}},
		{value: `type=image,"name=a,b",push=true`, kind: "image", attrs: map[string]string{"name": "a,b", "push": "true"}},
		{value: "type=image,name=a,push", kind: "image", attrs: map[string]string{"name": "a", "push": "true"}},
		{value: "type=registry,name=a", kind: "image", attrs: map[string]string{"name": "a", "push": "true"}},
		{value: "type=registry,name=a,push=false", kind: "image", attrs: map[string]string{"name": "a", "push": "false"}},
	} {
		got, err := Outputs([]string{c.value}, c.docker)
		if err != nil {
			t.Errorf("%s: %v", c.value, err)
			continue
		}
		e := got[0]
		if c.attrs == nil {
			c.attrs = map[string]string{}
		}
		if e.Type != c.kind || e.OutputDir != c.dir || (e.Output != nil) != c.file || !maps.Equal(e.Attrs, c.attrs) {
			t.Errorf("%s: %+v", c.value, e)
		}
	}
	if left, _ := filepath.Glob("*"); len(left) > 0 {
		t.Errorf("reading the flags made %q", left)
	}
}

func TestCacheOnlyIsNoOutput(t *testing.T) {
	if got, err := Outputs([]string{"type=cacheonly"}, true); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestBadOutputs(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("dir", 0o700); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"":                     "want a directory",
		"dest=x":               "has no type",
		"type=":                "has no type",
		"type=nope,dest=x":     "image, registry, local",
		"type=local":           "dest=DIR",
		"type=local,dest=-":    "dest=DIR",
		"type=local,dest=file": "file is not a directory",
		"file":                 "file is not a directory",
		"type=tar,dest=dir":    "dir is a directory",
		"type=oci,tar=false":   "dest=DIR",
		"type=image,dest=x":    "dest=x has no meaning",
		"type=tar,output=x":    "want dest=x",
		`type=tar,"dest=x`:     "double quotes",
		"type=tar,dest=a,=b":   "has no name",

		"type=docker,tar=false,dest=file": "file is not a directory",
	} {
		_, err := Outputs([]string{value}, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one with %q", value, err, want)
		}
	}
	if _, err := Outputs([]string{"-", "type=oci,dest=-"}, true); err == nil || !strings.Contains(err.Error(), "standard output already") {
		t.Errorf("two on standard output: %v", err)
	}
}

// TestAFailedBuildLeavesTheFile holds that the file of an output is opened when
// the result comes, not when the flags are read.
func TestAFailedBuildLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := Outputs([]string{"type=tar,dest=" + path}, true)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("before the result: %q, %v", b, err)
	}
	w, err := out[0].Output(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "n" {
		t.Errorf("after the result: %q, %v", b, err)
	}
}

func TestNamesPushAndLoad(t *testing.T) {
	image := func(attrs ...string) client.ExportEntry {
		m, err := Pairs(attrs)
		if err != nil {
			t.Fatal(err)
		}
		return client.ExportEntry{Type: "image", Attrs: m}
	}
	local := client.ExportEntry{Type: "local", Attrs: map[string]string{}}

	out := Push([]client.ExportEntry{local})
	if len(out) != 2 || out[1].Attrs["push"] != "true" {
		t.Errorf("push beside a directory: %+v", out)
	}
	if err := CheckPush(out); err == nil {
		t.Error("an image without a name is pushed")
	}
	Name(out, []string{"a", "b"})
	if out[1].Attrs["name"] != "a,b" || len(out[0].Attrs) != 0 {
		t.Errorf("names: %+v", out)
	}
	if err := CheckPush(out); err != nil {
		t.Error(err)
	}
	if out := Push([]client.ExportEntry{image("name=x")}); len(out) != 1 || out[0].Attrs["push"] != "true" {
		t.Errorf("push of an image: %+v", out)
	}
	if out := Load([]client.ExportEntry{image("push=true")}); len(out) != 1 {
		t.Errorf("load of an image that is in the store anyway: %+v", out)
	}
	if out := Load([]client.ExportEntry{local}); len(out) != 2 || out[1].Type != "image" {
		t.Errorf("load beside a directory: %+v", out)
	}
}

func TestAnnotate(t *testing.T) {
	out := []client.ExportEntry{{Type: "image", Attrs: map[string]string{}}, {Type: "local", Attrs: map[string]string{}}}
	err := Annotate(out, []string{"a=1", "index:b=2", "manifest[linux/arm64]:c=3", "index,manifest:d=4", "manifest-descriptor:h=x:y=z"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"annotation-manifest.a": "1", "annotation-index.b": "2", "annotation-manifest[linux/arm64].c": "3", "annotation-index.d": "4",
		"annotation-manifest.d": "4", "annotation-manifest-descriptor.h": "x:y=z",
	}
	for k, v := range want {
		if out[0].Attrs[k] != v {
			t.Errorf("%s is %q, want %q: %v", k, out[0].Attrs[k], v, out[0].Attrs)
		}
	}
	if len(out[1].Attrs) > 0 {
		t.Errorf("a directory has annotations: %v", out[1].Attrs)
	}
	for _, bad := range []string{"a", "=b", "nope:a=b", "https://a=b", "index[no]:a=b"} {
		if err := Annotate(out, []string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
