package git

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
)

// bundles is a Bundles that has one file.
type bundles string

func (b bundles) Save(_ context.Context, _ session.Client, r source.Request, path string) error {
	if r.Identifier != "docker-image+blob://h/x@sha256:1" {
		return fmt.Errorf("asked for %s", r.Identifier)
	}
	data, err := os.ReadFile(string(b))
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func TestFromBundle(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	old := f.commit(t, "repo", "a", "one")
	id := f.commit(t, "repo", "a", "two")
	path := filepath.Join(t.TempDir(), "bundle")
	f.git(t, "repo", "bundle", "create", "-q", path, "main")
	f.src.c.Bundles = bundles(path)
	f.want("nobody may ask the remote")
	for _, c := range []struct{ ref, sum, want string }{{"#main", id, "two"}, {"", id, "two"}, {"", old, "one"}, {"#" + old, old, "one"}} {
		_, got, err := f.get(t, nil, f.request("repo"+c.ref, pb.AttrGitBundle, "docker-image+blob://h/x@sha256:1", pb.AttrGitChecksum, c.sum))
		if err != nil || got["a"] != c.want {
			t.Errorf("%q %s: %v, %v", c.ref, c.sum, got, err)
		}
	}
	other := strings.Repeat("1", 40)
	for _, ref := range []string{"", "#main"} {
		_, _, err := f.get(t, nil, f.request("repo"+ref, pb.AttrGitBundle, "docker-image+blob://h/x@sha256:1", pb.AttrGitChecksum, other))
		if err == nil || !strings.Contains(err.Error(), other) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, _, err := f.get(t, nil, f.request("repo", pb.AttrGitBundle, "docker-image+blob://h/x@sha256:1")); err == nil {
		t.Error("a bundle without a checksum was accepted")
	}
}

func TestCheckoutBundle(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "a", "one")
	id := f.commit(t, "repo", "a", "two")
	p, err := f.src.Pin(t.Context(), nil, f.request("repo#main", pb.AttrGitCheckoutBundle, "true"))
	must(t, err)
	tr, err := f.src.Fetch(t.Context(), nil, p, nil)
	must(t, err)
	v, err := f.trees.Files(t.Context(), tr)
	must(t, err)
	path, err := v.HostPath("/bundle")
	must(t, err)
	if out := f.git(t, "", "bundle", "list-heads", path); out != id+" refs/heads/main" {
		t.Errorf("bundle has %q", out)
	}
	f.git(t, "", "clone", "-q", "-b", "main", path, "cloned")
	if b, _ := os.ReadFile(filepath.Join(f.root, "cloned/a")); string(b) != "two" {
		t.Errorf("cloned: %q", b)
	}
}
