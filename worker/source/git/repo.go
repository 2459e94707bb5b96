package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
)

const (
	// remoteFile is a file in each kept repository with its remote's URL. Its time
	// is when the repository was used last.
	remoteFile = "buildd-remote"
	// maxPacks is when a repository has so many packs that it is slow, and is
	// begun anew: nothing in it is needed once it is checked out.
	maxPacks = 64
)

// ErrInUse is returned by Evict for a repository that a build is using.
var ErrInUse = errors.New("git repository is in use")

func repoID(url string, sha256 bool) string {
	format := "sha1"
	if sha256 {
		format = "sha256"
	}
	return cache.Hash("git repository", []byte(url)).String()[:32] + "-" + format
}

// open returns the kept repository of a remote, locked.
func (s *Source) open(ctx context.Context, g program, url string, sha256 bool) (dir string, unlock func(), err error) {
	id := repoID(url, sha256)
	unlock, err = s.locks.lock(ctx, id)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(s.kept(), id)
	if err := s.prepare(ctx, g, dir, url, sha256); err != nil {
		unlock()
		return "", nil, err
	}
	return dir, unlock, nil
}

// prepare makes the repository if it is not there, not whole or worn out.
func (s *Source) prepare(ctx context.Context, g program, dir, url string, sha256 bool) error {
	packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
	now := time.Now()
	if os.Chtimes(filepath.Join(dir, remoteFile), now, now) == nil && len(packs) <= maxPacks {
		// What a git that was killed left behind.
		return ignoreNotExist(os.Remove(filepath.Join(dir, "shallow.lock")))
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove git repository: %w", err)
	}
	if err := g.init(ctx, dir, sha256, "--bare"); err != nil {
		return err
	}
	// Last, because it says that the repository is whole.
	if err := os.WriteFile(filepath.Join(dir, remoteFile), []byte(url), 0o600); err != nil {
		return fmt.Errorf("make git repository: %w", err)
	}
	return nil
}

func (g program) init(ctx context.Context, dir string, sha256 bool, args ...string) error {
	args = append([]string{"init", "-q", "--template="}, args...)
	if sha256 {
		args = append(args, "--object-format=sha256")
	}
	g.gitDir = dir
	_, err := g.run(ctx, args...)
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ensure brings the commit into the repository dir.
func (s *Source) ensure(ctx context.Context, c session.Client, g program, dir string, req request, found commit) error {
	g.gitDir = dir
	whole := req.bundle // a bundle of a shallow history could not be read
	if g.has(ctx, found.ID) && (!whole || !isShallow(dir)) {
		return g.checkSum(ctx, req, found)
	}
	if req.from != "" {
		if err := s.importBundle(ctx, c, g, req); err != nil {
			return err
		}
	} else if err := g.fetch(ctx, dir, req, found, whole); err != nil {
		return err
	}
	if !g.has(ctx, found.ID) {
		return fmt.Errorf("fetch git repository %s: it has no commit %s", req.remote.url, found.ID)
	}
	// Later fetches build upon what a ref leads to.
	if _, err := g.run(ctx, "update-ref", "refs/buildd/"+found.ID, found.ID); err != nil {
		return err
	}
	return g.checkSum(ctx, req, found)
}

// checkSum compares what a ref or tag leads to with the request's checksum,
// which may be shortened.
func (g program) checkSum(ctx context.Context, req request, found commit) error {
	if req.checksum == "" || strings.HasPrefix(found.ID, req.checksum) {
		return nil
	}
	out, err := g.run(ctx, "rev-parse", "--verify", found.ID+"^{commit}")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(out); !strings.HasPrefix(got, req.checksum) {
		return fmt.Errorf("git repository %s: expected checksum to match %s, got %s or %s", req.remote.url, req.checksum, found.ID, got)
	}
	return nil
}

func (g program) has(ctx context.Context, id string) bool {
	_, err := g.run(ctx, "cat-file", "-e", id+"^{commit}")
	return err == nil
}

func isShallow(dir string) bool {
	st, err := os.Stat(filepath.Join(dir, "shallow"))
	return err == nil && st.Size() > 0
}

// fetch tries, cheapest first: the commit alone; the ref, from servers that give
// out no other commits; everything.
func (g program) fetch(ctx context.Context, dir string, req request, found commit, whole bool) error {
	common := []string{"fetch", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules"}
	all := slices.Clone(common)
	if isShallow(dir) {
		all = append(all, "--unshallow")
	}
	all = append(all, "--", req.remote.url, "+refs/heads/*:refs/buildd/heads/*", "+refs/tags/*:refs/buildd/tags/*")
	tries := [][]string{append(slices.Clone(common), "--depth=1", "--", req.remote.url, found.ID)}
	if strings.HasPrefix(found.Ref, "refs/") && !req.fetchByCommit {
		tries = append(tries, append(slices.Clone(common), "--depth=1", "--", req.remote.url, found.Ref))
	}
	tries = append(tries, all)
	if whole {
		tries = [][]string{all}
	}
	var err error
	for _, args := range tries {
		_, err = g.tell(ctx, args...)
		if err == nil && g.has(ctx, found.ID) {
			return nil
		}
		if err != nil && !isRefusal(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("fetch git repository %s: %w", req.remote.url, err)
	}
	return nil
}

// isRefusal tells whether a server would not give that, but may give more.
func isRefusal(err error) bool {
	var ge *Error
	if !errors.As(err, &ge) {
		return false
	}
	for _, s := range []string{"not our ref", "unadvertised object", "shallow", "depth", "remote ref", "no such remote ref", "does not allow request", "dumb http"} {
		if strings.Contains(ge.Stderr, s) {
			return true
		}
	}
	return false
}

// locks are mutexes by name that can be given up on.
type locks struct {
	mu sync.Mutex // guards m
	m  map[string]chan struct{}
}

func (l *locks) of(name string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.m[name]
	if !ok {
		if l.m == nil {
			l.m = map[string]chan struct{}{}
		}
		c = make(chan struct{}, 1)
		l.m[name] = c
	}
	return c
}

func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	c := l.of(name)
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for git repository: %w", context.Cause(ctx))
	}
}

// Kept is a repository that is kept for later builds.
type Kept struct {
	ID     string
	Remote string
	Size   int64 // bytes on disk
	Used   time.Time
}

// Usage lists the kept repositories, the last used first.
func (s *Source) Usage() ([]Kept, error) {
	dirs, err := os.ReadDir(s.kept())
	if err != nil {
		return nil, fmt.Errorf("list git repositories: %w", err)
	}
	var out []Kept
	for _, d := range dirs {
		dir := filepath.Join(s.kept(), d.Name())
		url, err := os.ReadFile(filepath.Join(dir, remoteFile))
		if err != nil {
			continue // being made
		}
		k := Kept{ID: d.Name(), Remote: string(url), Size: diskUsage(dir)}
		if st, err := os.Stat(filepath.Join(dir, remoteFile)); err == nil {
			k.Used = st.ModTime()
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Kept) int { return b.Used.Compare(a.Used) })
	return out, nil
}

func diskUsage(dir string) int64 {
	var n int64
	// Files come and go while a build fetches; what cannot be read does not count.
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if i, err := d.Info(); err == nil && i.Mode().IsRegular() {
			n += i.Size()
		}
		return nil
	})
	return n
}

// Evict removes a repository that Usage listed. It returns ErrInUse if a build
// is using it.
func (s *Source) Evict(id string) error {
	if id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return fmt.Errorf("evict git repository %q: no such ID", id)
	}
	c := s.locks.of(id)
	select {
	case c <- struct{}{}:
		defer func() { <-c }()
	default:
		return ErrInUse
	}
	if err := os.RemoveAll(filepath.Join(s.kept(), id)); err != nil {
		return fmt.Errorf("evict git repository: %w", err)
	}
	return nil
}

// resolveBundle is resolve for a request that names a bundle.
func (s *Source) resolveBundle(ctx context.Context, c session.Client, g program, req request, r source.Request) (commit, error) {
	dir, unlock, err := s.open(ctx, g, req.remote.url, len(req.checksum) == sha256Digits)
	if err != nil {
		return commit{}, err
	}
	defer unlock()
	path, err := s.saveBundle(ctx, c, req)
	if err != nil {
		return commit{}, err
	}
	defer os.Remove(path)
	g.gitDir = dir
	return g.ask(ctx, req, path)
}
