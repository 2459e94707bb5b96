package git

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"golang.org/x/sys/unix"
)

// checkout makes a tree of the commit's files.
func (s *Source) checkout(ctx context.Context, g program, repo string, req request, found commit) (cache.Tree, error) {
	d, err := s.c.Trees.NewDraft(ctx, "")
	if err != nil {
		return "", fmt.Errorf("check out %s: %w", req.remote.url, err)
	}
	out, err := func() (cache.Tree, error) {
		if err := s.checkoutTo(ctx, g, repo, d.Dir, req, found); err != nil {
			return "", err
		}
		return d.Commit(ctx, nil)
	}()
	if err != nil {
		d.Discard()
		return "", fmt.Errorf("check out %s of %s: %w", found.Ref, req.remote.url, err)
	}
	return out, nil
}

func (s *Source) checkoutTo(ctx context.Context, g program, repo, dir string, req request, found commit) error {
	// Files are written below dir in any case, so that they can be moved.
	work := dir
	if req.subdir != "" {
		work = filepath.Join(dir, ".buildd-"+rand.Text())
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
	}
	keep := req.keepGitDir && req.subdir == ""
	g = g.with("remote.origin.url", req.remote.url)
	var err error
	if keep {
		g, err = s.clone(ctx, g, repo, work, req, found)
	} else {
		g, err = s.worktree(ctx, g, repo, work, found)
		defer os.RemoveAll(g.gitDir)
	}
	if err != nil {
		return err
	}
	if _, err := g.tell(ctx, "checkout", "--force", "--no-progress", found.ID+"^{commit}"); err != nil {
		return err
	}
	if err := g.submodules(ctx, req); err != nil {
		return err
	}
	if keep {
		if err := g.tidy(ctx); err != nil {
			return err
		}
	} else if err := removeGitFiles(work); err != nil {
		return err
	}
	if req.subdir != "" {
		if err := moveUp(work, req.subdir, dir); err != nil {
			return err
		}
	}
	if req.commitTime {
		return setTimes(ctx, g, repo, dir, found)
	}
	return nil
}

// borrow makes a bare repository that has the objects of repo.
func (s *Source) borrow(ctx context.Context, g program, repo string, sha256 bool) (string, error) {
	dir, err := os.MkdirTemp(s.tmp(), "repo-")
	if err != nil {
		return "", err
	}
	err = func() error {
		if err := g.init(ctx, dir, sha256, "--bare"); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "objects/info/alternates"), []byte(filepath.Join(repo, "objects")+"\n"), 0o600); err != nil {
			return err
		}
		shallow, err := os.ReadFile(filepath.Join(repo, "shallow"))
		if err != nil {
			return ignoreNotExist(err)
		}
		return os.WriteFile(filepath.Join(dir, "shallow"), shallow, 0o600)
	}()
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

// worktree prepares a checkout into work whose repository lies elsewhere, and
// is the gitDir of the result.
func (s *Source) worktree(ctx context.Context, g program, repo, work string, found commit) (program, error) {
	dir, err := s.borrow(ctx, g, repo, len(found.ID) == sha256Digits)
	if err != nil {
		return g, err
	}
	return g.in(dir, work).with("core.bare", "false"), nil
}

// clone prepares a checkout into work with a repository of its own in .git,
// which has the one commit under the ref that was asked for.
func (s *Source) clone(ctx context.Context, g program, repo, work string, req request, found commit) (program, error) {
	dir := filepath.Join(work, ".git")
	if err := g.init(ctx, dir, len(found.ID) == sha256Digits); err != nil {
		return g, err
	}
	g = g.in(dir, work)
	steps := [][]string{
		{"config", "core.bare", "false"},
		{"config", "--unset-all", "core.worktree"},
		{"remote", "add", "origin", req.remote.url},
		{"fetch", "-q", "-u", "--depth=1", "--no-tags", "--no-write-fetch-head", "--", "file://" + repo, found.ID},
	}
	if strings.HasPrefix(found.Ref, "refs/") {
		steps = append(steps, []string{"update-ref", found.Ref, found.ID})
	}
	for _, args := range steps {
		if _, err := g.run(ctx, args...); err != nil && args[1] != "--unset-all" { // it may not be set
			return g, err
		}
	}
	return g, nil
}

// submodules checks them out, too. They come from where the repository says,
// but only over protocols that a client could have named.
func (g program) submodules(ctx context.Context, req request) error {
	if req.noSubmodules {
		return nil
	}
	if st, err := os.Lstat(filepath.Join(g.tree, ".gitmodules")); err != nil || !st.Mode().IsRegular() {
		return ignoreNotExist(err)
	}
	update := []string{"submodule", "update", "--init", "--recursive"}
	_, err := g.tell(ctx, append(update, "--depth=1")...)
	if err != nil && isRefusal(err) { // such as by a server of plain files
		_, err = g.tell(ctx, update...)
	}
	if err != nil {
		return fmt.Errorf("update submodules: %w", err)
	}
	return nil
}

// tidy removes what says when and how a kept .git was made.
func (g program) tidy(ctx context.Context) error {
	if _, err := g.run(ctx, "reflog", "expire", "--all", "--expire=now"); err != nil {
		return err
	}
	for _, name := range []string{"FETCH_HEAD", "ORIG_HEAD", "logs", "hooks"} {
		if err := os.RemoveAll(filepath.Join(g.gitDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// removeGitFiles removes the files with which submodules find their
// repositories. No commit can have a file of that name.
func removeGitFiles(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ".git" || p == dir {
			return err
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// moveUp makes the files of work's subdirectory those of dir, and removes work.
func moveUp(work, subdir, dir string) error {
	root, err := os.OpenRoot(work)
	if err != nil {
		return err
	}
	defer root.Close()
	for i := range strings.Split(subdir, "/") {
		p := strings.Join(strings.Split(subdir, "/")[:i+1], "/")
		st, err := root.Lstat(p)
		if err != nil {
			return fmt.Errorf("subdirectory %q: %w", subdir, err)
		}
		if !st.IsDir() {
			return fmt.Errorf("subdirectory %q: %q is no directory", subdir, p)
		}
	}
	from := filepath.Join(work, subdir)
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Rename(filepath.Join(from, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}

// setTimes gives all files the commit's time.
func setTimes(ctx context.Context, g program, repo, dir string, found commit) error {
	out, err := g.in(repo, "").run(ctx, "log", "-1", "--format=%ct", found.ID+"^{commit}")
	if err != nil {
		return err
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return fmt.Errorf("commit time %q: %w", out, err)
	}
	ts := []unix.Timespec{unix.NsecToTimespec(time.Unix(sec, 0).UnixNano()), unix.NsecToTimespec(time.Unix(sec, 0).UnixNano())}
	var paths []string
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		paths = append(paths, p)
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(paths) { // a directory after what is in it
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set time of %s: %w", p, err)
		}
	}
	return nil
}
