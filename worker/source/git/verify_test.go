package git

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

func TestSSHSignature(t *testing.T) {
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: ssh-keygen is not installed")
	}
	f := newFixture(t)
	keys := t.TempDir()
	for _, name := range []string{"good", "other"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, name)).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	pub := func(name string) string {
		b, err := os.ReadFile(filepath.Join(keys, name+".pub"))
		must(t, err)
		return string(b)
	}
	f.init(t, "repo")
	f.git(t, "repo", "config", "gpg.format", "ssh")
	f.git(t, "repo", "config", "user.signingkey", filepath.Join(keys, "good"))
	f.commit(t, "repo", "a", "unsigned")
	unsigned := f.git(t, "repo", "rev-parse", "HEAD")
	f.git(t, "repo", "config", "commit.gpgsign", "true")
	f.commit(t, "repo", "a", "signed")
	f.git(t, "repo", "tag", "-s", "-m", "signed tag", "v1")
	f.git(t, "repo", "tag", "-a", "--no-sign", "-m", "unsigned tag", "v2")

	for _, c := range []struct {
		name, ref, key, attr, want string
	}{
		{"commit", "", "good", "", ""},
		{"tag", "#v1", "good", "", ""},
		{"required tag", "#v1", "good", pb.AttrGitSignatureVerifyRequireSignedTag, ""},
		{"signed commit of an unsigned tag", "#v2", "good", "", ""},
		{"other key", "", "other", "", "not the one that is trusted"},
		{"unsigned", "#" + unsigned, "good", "", "not signed"},
		{"unsigned tag where one is required", "#v2", "good", pb.AttrGitSignatureVerifyRequireSignedTag, "not signed"},
		{"no tag where one is required", "", "good", pb.AttrGitSignatureVerifyRequireSignedTag, "there is no signed tag"},
	} {
		attrs := []string{pb.AttrGitSignatureVerifyPubKey, pub(c.key)}
		if c.attr != "" {
			attrs = append(attrs, c.attr, "true")
		}
		_, err := f.src.Pin(t.Context(), nil, f.request("repo"+c.ref, attrs...))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
