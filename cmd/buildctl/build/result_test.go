package build

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/lint"
)

func TestMetadata(t *testing.T) {
	b, err := metadata(map[string]string{
		"containerimage.digest": "sha256:1", "containerimage.descriptor": base64.StdEncoding.EncodeToString([]byte(`{"size":5}`)), "number": "MTIz",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"containerimage.digest": "sha256:1"`, `"size": 5`, `"number": "MTIz"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("has no %s:\n%s", want, b)
		}
	}
}

func TestWriteFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two"} {
		if err := writeFile("--x", p, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(p); err != nil || string(b) != text {
			t.Errorf("%q, %v", b, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(p), "*")); len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
	if err := writeFile("--x", "/nope/f", nil); err == nil || !strings.Contains(err.Error(), "--x") {
		t.Errorf("error: %v", err)
	}
}

func TestLintIsPrinted(t *testing.T) {
	r := &lint.LintResults{}
	res, err := r.ToResult(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &call{request: lint.RequestLint}
	var b bytes.Buffer
	if err := c.print(&b, res); err != nil || !strings.Contains(b.String(), "no warnings") {
		t.Errorf("%q, %v", b.String(), err)
	}
	for range 2 {
		r.AddWarning("Rule", "", "http://url", "what is wrong", -1, nil)
	}
	if res, err = r.ToResult(nil); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	err = c.print(&b, res)
	x, ok := errors.AsType[*ExitError](err)
	if !ok || x.Code != 1 || !strings.Contains(b.String(), "2 warnings have been found") || !strings.Contains(b.String(), "what is wrong") {
		t.Errorf("%q, %v", b.String(), err)
	}
	c.json = true
	b.Reset()
	if err := c.print(&b, res); err == nil || !strings.HasPrefix(b.String(), "{") {
		t.Errorf("%q, %v", b.String(), err)
	}
	c.ignoreStatus = true
	if err := c.print(&b, res); err != nil {
		t.Error(err)
	}
}

func TestOtherAnswersArePrinted(t *testing.T) {
	res := gwclient.NewResult()
	res.AddMeta("result.json", []byte("{}"))
	res.AddMeta("result.txt", []byte("text\n"))
	c := &call{request: "frontend.outline"}
	var b bytes.Buffer
	if err := c.print(&b, res); err != nil || b.String() != "text\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if err := c.print(&b, nil); err == nil {
		t.Error("no answer is one")
	}
}

func TestCredentialsStayHere(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:pass@host/r.git": "https://host/r.git", "git@host:r.git": "git@host:r.git", "ssh://git@host/r.git": "ssh://git@host/r.git", "": "",
	} {
		if got := withoutPassword(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
