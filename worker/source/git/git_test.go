package git

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
)

// fixture is a Source, and a server of real repositories.
type fixture struct {
	src   *Source
	trees *tree.Store
	root  string // of the server's repositories
	url   string
	host  string
	gets  atomic.Int32

	mu   sync.Mutex // guards auth
	auth string     // the Authorization header that the server wants
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: git is not installed")
	}
	f := &fixture{root: t.TempDir()}
	var err error
	blobs, err := blob.Open(t.TempDir())
	must(t, err)
	f.trees, err = tree.Open(tree.Config{Dir: t.TempDir(), Blobs: blobs})
	must(t, err)
	t.Cleanup(func() { f.trees.Close() })
	f.src, err = New(Config{Trees: f.trees, Dir: t.TempDir()})
	must(t, err)
	out, err := exec.Command("git", "--exec-path").Output()
	must(t, err)
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + f.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null"}, InheritEnv: []string{"PATH"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		auth := f.auth
		f.mu.Unlock()
		if auth != "" && r.Header.Get("Authorization") != auth {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodPost {
			f.gets.Add(1)
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	f.url, f.host = s.URL, strings.TrimPrefix(s.URL, "http://")
	return f
}

// want makes the server ask for an Authorization header.
func (f *fixture) want(auth string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.auth = auth
}

// git runs git in a repository of the server as somebody who works on it.
func (f *fixture) git(t *testing.T, repo string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = filepath.Join(f.root, repo)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2001-02-03T04:05:06Z", "GIT_COMMITTER_DATE=2001-02-03T04:05:06Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (f *fixture) init(t *testing.T, repo string, args ...string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(f.root, repo), 0o755))
	f.git(t, repo, append([]string{"init", "-q", "-b", "main"}, args...)...)
}

func (f *fixture) commit(t *testing.T, repo, name, content string) string {
	t.Helper()
	path := filepath.Join(f.root, repo, name)
	must(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)))
	f.git(t, repo, "add", "-A")
	f.git(t, repo, "commit", "-q", "-m", "change "+name)
	return f.git(t, repo, "rev-parse", "HEAD")
}

func (f *fixture) request(repo string, attrs ...string) source.Request {
	name, _, _ := strings.Cut(repo, "#")
	r := source.Request{Identifier: "git://" + f.host + "/" + repo, Attrs: map[string]string{pb.AttrFullRemoteURL: f.url + "/" + name}}
	for i := 0; i < len(attrs); i += 2 {
		r.Attrs[attrs[i]] = attrs[i+1]
	}
	return r
}

func (f *fixture) get(t *testing.T, c session.Client, r source.Request) (source.Pin, map[string]string, error) {
	t.Helper()
	p, err := f.src.Pin(t.Context(), c, r)
	if err != nil {
		return p, nil, err
	}
	tr, err := f.src.Fetch(t.Context(), c, p, nil)
	if err != nil {
		return p, nil, err
	}
	return p, files(t, f.trees, tr), nil
}

func files(t *testing.T, trees *tree.Store, tr cache.Tree) map[string]string {
	t.Helper()
	v, err := trees.Files(t.Context(), tr)
	must(t, err)
	out := map[string]string{}
	must(t, v.Walk("/", func(p string, e digest.Entry) error {
		host, err := v.HostPath(p)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, "/")
		switch {
		case name == ".git" && e.IsDir():
			out[name] = host
			return fs.SkipDir
		case e.IsRegular():
			b, err := os.ReadFile(host)
			out[name] = string(b)
			return err
		case e.IsSymlink():
			out[name] = "-> " + e.Link
		}
		return nil
	}))
	return out
}

func TestCheckout(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			f := newFixture(t)
			f.init(t, "repo", "--object-format="+format)
			must(t, os.Symlink("a", filepath.Join(f.root, "repo/link")))
			first := f.commit(t, "repo", "a", "one")
			f.git(t, "repo", "tag", "-a", "-m", "release", "v1")
			tag := f.git(t, "repo", "rev-parse", "v1")
			second := f.commit(t, "repo", "sub/dir/b", "two")
			f.git(t, "repo", "branch", "feature")
			f.git(t, "repo", "update-ref", "refs/pull/7/head", first)
			third := f.commit(t, "repo", "a", "three")

			for _, c := range []struct {
				name, ref, id string
				want          map[string]string
			}{
				{"default branch", "", third, map[string]string{"a": "three", "sub/dir/b": "two", "link": "-> a"}},
				{"branch", "#feature", second, map[string]string{"a": "one", "sub/dir/b": "two", "link": "-> a"}},
				{"annotated tag", "#v1", tag, map[string]string{"a": "one", "link": "-> a"}},
				{"whole ref", "#refs/tags/v1", tag, map[string]string{"a": "one", "link": "-> a"}},
				{"pull request", "#refs/pull/7/head", first, map[string]string{"a": "one", "link": "-> a"}},
				{"short pull request", "#pull/7/head", first, map[string]string{"a": "one", "link": "-> a"}},
				{"commit", "#" + first, first, map[string]string{"a": "one", "link": "-> a"}},
				{"subdirectory", "#main:sub/dir", third, map[string]string{"b": "two"}},
				{"subdirectory of the default branch", "#:sub", third, map[string]string{"dir/b": "two"}},
			} {
				p, got, err := f.get(t, nil, f.request("repo"+c.ref))
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
					continue
				}
				if p.Resolved != c.id {
					t.Errorf("%s: resolved to %s, want %s", c.name, p.Resolved, c.id)
				}
				equal(t, got, c.want)
			}
			a, _, _ := f.get(t, nil, f.request("repo#v1"))
			b, _, _ := f.get(t, nil, f.request("repo#"+first))
			if a.Key != b.Key {
				t.Error("a tag and its commit have the same files but other keys")
			}
		})
	}
}

func TestKeepGitDir(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "a", "one")
	f.git(t, "repo", "tag", "-a", "-m", "release", "v1")
	id := f.commit(t, "repo", "a", "two")

	_, got, err := f.get(t, nil, f.request("repo#main", pb.AttrKeepGitDir, "true"))
	must(t, err)
	local := &fixture{root: got[".git"] + "/.."}
	for cmd, want := range map[string]string{
		"rev-parse HEAD": id, "rev-parse refs/heads/main": id, "status --porcelain": "", "remote get-url origin": f.url + "/repo",
		"log --format=%s": "change a",
	} {
		if out := local.git(t, "", strings.Fields(cmd)...); out != want {
			t.Errorf("git %s: got %q, want %q", cmd, out, want)
		}
	}
	_, got, err = f.get(t, nil, f.request("repo#v1", pb.AttrKeepGitDir, "true"))
	must(t, err)
	local.root = got[".git"] + "/.."
	if out := local.git(t, "", "describe"); out != "v1" {
		t.Errorf("describe: %q", out)
	}
}

func TestSubmodules(t *testing.T) {
	f := newFixture(t)
	f.init(t, "lib")
	f.commit(t, "lib", "l", "lib")
	f.init(t, "repo")
	f.commit(t, "repo", "a", "one")
	f.git(t, "repo", "-c", "protocol.file.allow=always", "submodule", "add", "-q", f.url+"/lib", "vendor/lib")
	f.git(t, "repo", "config", "-f", ".gitmodules", "submodule.vendor/lib.url", "../lib") // relative to the remote
	f.commit(t, "repo", "b", "two")

	_, got, err := f.get(t, nil, f.request("repo"))
	must(t, err)
	delete(got, ".gitmodules")
	equal(t, got, map[string]string{"a": "one", "b": "two", "vendor/lib/l": "lib"})
	_, got, err = f.get(t, nil, f.request("repo", pb.AttrGitSkipSubmodules, "true"))
	must(t, err)
	delete(got, ".gitmodules")
	equal(t, got, map[string]string{"a": "one", "b": "two"})

	// A repository must not reach the files of this host through a submodule.
	for _, url := range []string{filepath.Join(f.root, "lib"), "file://" + filepath.Join(f.root, "lib"), "ext::sh -c touch% " + f.root + "/pwned"} {
		f.git(t, "repo", "config", "-f", ".gitmodules", "submodule.vendor/lib.url", url)
		f.commit(t, "repo", "b", url)
		if _, got, err := f.get(t, nil, f.request("repo")); err == nil {
			t.Errorf("submodule %s came through: %v", url, got)
		} else if !strings.Contains(err.Error(), "not allowed") && !strings.Contains(err.Error(), "submodule") {
			t.Errorf("submodule %s: %v", url, err)
		}
	}
	if _, err := os.Stat(f.root + "/pwned"); err == nil {
		t.Error("a submodule ran a command")
	}
}

// What moves while a build runs must not change what it gets, and what was
// fetched is not fetched again.
func TestKept(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	old := f.commit(t, "repo", "a", "one")
	p, err := f.src.Pin(t.Context(), nil, f.request("repo"))
	must(t, err)
	f.commit(t, "repo", "a", "two")
	tr, err := f.src.Fetch(t.Context(), nil, p, nil)
	must(t, err)
	equal(t, files(t, f.trees, tr), map[string]string{"a": "one"})

	f.gets.Store(0)
	_, got, err := f.get(t, nil, f.request("repo#"+old))
	must(t, err)
	equal(t, got, map[string]string{"a": "one"})
	if n := f.gets.Load(); n != 0 {
		t.Errorf("a kept commit took %d requests", n)
	}
	kept, err := f.src.Usage()
	must(t, err)
	if len(kept) != 1 || kept[0].Remote != f.url+"/repo" || kept[0].Size == 0 || kept[0].Used.IsZero() {
		t.Fatalf("usage: %+v", kept)
	}
	must(t, f.src.Evict(kept[0].ID))
	if _, got, err = f.get(t, nil, f.request("repo#"+old)); err != nil || got["a"] != "one" {
		t.Errorf("after eviction: %v, %v", got, err)
	}
	tmp, err := os.ReadDir(f.src.tmp())
	must(t, err)
	if len(tmp) != 0 {
		t.Errorf("left behind: %v", tmp)
	}

	// One build sees one commit.
	memo := &source.Memo{}
	r := f.request("repo")
	r.Memo = memo
	one, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	f.commit(t, "repo", "a", "three")
	two, err := f.src.Pin(t.Context(), nil, r)
	must(t, err)
	if one.Key != two.Key {
		t.Error("a branch moved within a build")
	}
}

func TestAuth(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "a", "one")
	basic := func(s string) string { return "basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	client := func(secrets map[string][]byte) session.Client {
		return sessiontest.Client(t, secretsprovider.FromMap(secrets))
	}
	attrs := []string{pb.AttrAuthTokenSecret, "GIT_AUTH_TOKEN", pb.AttrAuthHeaderSecret, "GIT_AUTH_HEADER"}
	for name, c := range map[string]struct {
		want    string
		secrets map[string][]byte
	}{
		"token":              {basic("x-access-token:abc"), map[string][]byte{"GIT_AUTH_TOKEN": []byte("abc\n")}},
		"token for the host": {basic("x-access-token:abc"), map[string][]byte{"GIT_AUTH_TOKEN." + f.host: []byte("abc"), "GIT_AUTH_HEADER": []byte("wrong")}},
		"header":             {"Bearer xyz", map[string][]byte{"GIT_AUTH_HEADER": []byte("Bearer xyz"), "GIT_AUTH_TOKEN": []byte("wrong")}},
	} {
		f.want(c.want)
		_, got, err := f.get(t, client(c.secrets), f.request("repo", attrs...))
		if err != nil || got["a"] != "one" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if _, _, err := f.get(t, client(nil), f.request("repo", attrs...)); err == nil {
			t.Errorf("%s: no secret was needed", name)
		}
	}
	f.want(basic("me:pass"))
	r := f.request("repo")
	r.Attrs[pb.AttrFullRemoteURL] = "http://me:pass@" + f.host + "/repo"
	if _, got, err := f.get(t, nil, r); err != nil || got["a"] != "one" {
		t.Errorf("password of the URL: %v, %v", got, err)
	}
	must(t, filepath.WalkDir(f.src.c.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), "me:pass") || strings.Contains(string(b), "xyz") {
			t.Errorf("%s keeps a secret", p)
		}
		return err
	}))
}

func TestChecksum(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	id := f.commit(t, "repo", "a", "one")
	f.git(t, "repo", "tag", "-a", "-m", "release", "v1")
	for _, ref := range []string{"", "#v1", "#" + id} {
		for _, sum := range []string{id, id[:8], strings.ToUpper(id)} {
			if _, _, err := f.get(t, nil, f.request("repo"+ref, pb.AttrGitChecksum, sum)); err != nil {
				t.Errorf("ref %q, checksum %s: %v", ref, sum, err)
			}
		}
		_, _, err := f.get(t, nil, f.request("repo"+ref, pb.AttrGitChecksum, strings.Repeat("0", 40)))
		if err == nil || !strings.Contains(err.Error(), "expected checksum to match") {
			t.Errorf("ref %q: wrong checksum: %v", ref, err)
		}
	}
	f.commit(t, "repo", "a", "two")
	_, got, err := f.get(t, nil, f.request("repo#main", pb.AttrGitChecksum, id, pb.AttrGitFetchByCommit, "true", pb.AttrKeepGitDir, "true"))
	if err != nil || got["a"] != "one" {
		t.Errorf("by commit: %v, %v", got, err)
	}
}

// What git says goes to the log, its advice only on request.
func TestLog(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "a", "one")
	for _, advice := range []bool{false, true} {
		var log strings.Builder
		r := f.request("repo", pb.AttrGitAdvice, fmt.Sprint(advice))
		r.Log = func(_ int, data []byte) { log.Write(data) }
		_, _, err := f.get(t, nil, r)
		must(t, err)
		if got := log.String(); !strings.Contains(got, "HEAD is now at") || strings.Contains(got, "detached HEAD") != advice {
			t.Errorf("advice %v: %s", advice, got)
		}
	}
}

func TestCommitTime(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "d/a", "one")
	p, err := f.src.Pin(t.Context(), nil, f.request("repo", pb.AttrGitMTime, "commit"))
	must(t, err)
	tr, err := f.src.Fetch(t.Context(), nil, p, nil)
	must(t, err)
	v, err := f.trees.Files(t.Context(), tr)
	must(t, err)
	for _, name := range []string{"/d", "/d/a"} {
		e, err := v.Lstat(name)
		must(t, err)
		if e.ModTime.Unix() != 981173106 {
			t.Errorf("%s has the time %s", name, e.ModTime)
		}
		if e.Mode&0o777 != map[string]uint32{"/d": 0o755, "/d/a": 0o644}[name] {
			t.Errorf("%s has the mode %o", name, e.Mode)
		}
	}
}

func TestDescribe(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	id := f.commit(t, "repo", "a", "one")
	f.git(t, "repo", "tag", "-a", "-m", "release", "v1")
	tag := f.git(t, "repo", "rev-parse", "v1")
	m, err := f.src.Describe(t.Context(), nil, f.request("repo#v1"), sourceresolver.Opt{GitOpt: &sourceresolver.ResolveGitOpt{ReturnObject: true}})
	must(t, err)
	if m.Git.Checksum != tag || m.Git.CommitChecksum != id || m.Git.Ref != "refs/tags/v1" ||
		!strings.Contains(string(m.Git.CommitObject), "change a") || !strings.Contains(string(m.Git.TagObject), "release") {
		t.Errorf("%+v", m.Git)
	}
}

func TestErrors(t *testing.T) {
	f := newFixture(t)
	f.init(t, "repo")
	f.commit(t, "repo", "dir/a", "one")
	must(t, os.Symlink("/etc", filepath.Join(f.root, "repo/evil")))
	f.commit(t, "repo", "b", "two")
	for _, c := range []struct{ ref, want string }{
		{"repo#nothing", "does not contain ref nothing"},
		{"none", "not found"},
		{"repo#" + strings.Repeat("1", 40), strings.Repeat("1", 40)},
		{"repo#main:none", "none"},
		{"repo#main:evil", `"evil" is no directory`},
		{"repo#main:dir/a", `"dir/a" is no directory`},
	} {
		if _, got, err := f.get(t, nil, f.request(c.ref)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", c.ref, got, err, c.want)
		}
	}
	f.src.c.Binary = "no-such-git"
	if _, _, err := f.get(t, nil, f.request("repo")); !errors.Is(err, ErrNoGit) {
		t.Errorf("no git: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want map[string]string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
