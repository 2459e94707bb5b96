package git

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
)

// Scheme is that of the identifiers, git://HOST/PATH[#REF[:SUBDIR]].
const Scheme = "git"

// Trees is what the Source needs of tree.Store.
type Trees interface {
	NewDraft(ctx context.Context, parent cache.Tree) (*tree.Draft, error)
}

// Bundles opens a git bundle that is kept as a blob; see source/blob.
type Bundles interface {
	Save(ctx context.Context, c session.Client, r source.Request, path string) error
}

// Config is what New needs.
type Config struct {
	Trees Trees
	// Dir keeps the repositories.
	Dir string
	// Bundles reads bundles for requests that name one; nil has none.
	Bundles Bundles
	// Binary is the git program; "" is git in $PATH.
	Binary string
}

// Source is the source of git repositories.
type Source struct {
	c     Config
	locks locks
}

// New returns a Source that goes on with the repositories in c.Dir. That git is
// not installed shows when it is needed.
func New(c Config) (*Source, error) {
	if c.Binary == "" {
		c.Binary = "git"
	}
	s := &Source{c: c}
	if err := errors.Join(os.RemoveAll(s.tmp()), os.MkdirAll(s.tmp(), 0o700), os.MkdirAll(s.kept(), 0o700)); err != nil {
		return nil, fmt.Errorf("open git source: %w", err)
	}
	return s, nil
}

func (s *Source) tmp() string  { return filepath.Join(s.c.Dir, "tmp") }
func (s *Source) kept() string { return filepath.Join(s.c.Dir, "repos") }

// Schemes is git.
func (s *Source) Schemes() []string { return []string{Scheme} }

// Pin asks the remote what the ref is, unless that is a commit. A signature
// that is asked for is verified here.
func (s *Source) Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error) {
	req, err := parse(r)
	if err != nil {
		return source.Pin{}, err
	}
	found, err := s.resolve(ctx, c, req, r)
	if err != nil {
		return source.Pin{}, err
	}
	if req.verify != nil {
		o, err := s.objects(ctx, c, req, &found, r.Progress)
		if err != nil {
			return source.Pin{}, err
		}
		if err := req.verify.check(o, found); err != nil {
			return source.Pin{}, fmt.Errorf("verify %s of %s: %w", found.Ref, req.remote.url, err)
		}
	}
	state, err := json.Marshal(found)
	if err != nil {
		return source.Pin{}, fmt.Errorf("git source %s: %w", req.remote.url, err)
	}
	return source.Pin{Request: r, Key: req.key(found), Resolved: found.ID, State: state}, nil
}

// resolve finds out the commit, once per build.
func (s *Source) resolve(ctx context.Context, c session.Client, req request, r source.Request) (commit, error) {
	if known, ok := req.known(); ok {
		return known, nil
	}
	data, err := r.Memo.Do(ctx, "git\n"+req.name(), func(ctx context.Context) ([]byte, error) {
		var found commit
		err := s.work(ctx, c, req, func(g program) error {
			var err error
			if req.from != "" {
				found, err = s.resolveBundle(ctx, c, g, req, r)
			} else {
				found, err = g.ask(ctx, req, req.remote.url)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		return json.Marshal(found)
	})
	if err != nil {
		return commit{}, err
	}
	var found commit
	if err := json.Unmarshal(data, &found); err != nil {
		return commit{}, fmt.Errorf("git source %s: %w", req.remote.url, err)
	}
	return found, nil
}

// Fetch fetches the commit if it is not kept already, and checks it out.
func (s *Source) Fetch(ctx context.Context, c session.Client, p source.Pin, progress func(solver.Status)) (cache.Tree, error) {
	req, err := parse(p.Request)
	if err != nil {
		return "", err
	}
	var found commit
	if err := json.Unmarshal(p.State, &found); err != nil {
		return "", fmt.Errorf("read pin of %s: %w", req.remote.url, err)
	}
	var out cache.Tree
	err = s.withCommit(ctx, c, req, found, progress, func(g program, repo string) error {
		var err error
		if req.bundle {
			out, err = s.checkoutBundle(ctx, g, repo, req, found)
		} else {
			out, err = s.checkout(ctx, g, repo, req, found)
		}
		return err
	})
	return out, err
}

// withCommit calls f with the kept repository that has the commit. Nobody else
// changes it meanwhile.
func (s *Source) withCommit(ctx context.Context, c session.Client, req request, found commit, progress func(solver.Status), f func(g program, repo string) error) error {
	done := report(progress, "fetching "+req.remote.url+" "+found.Ref)
	return s.work(ctx, c, req, func(g program) error {
		repo, unlock, err := s.open(ctx, g, req.remote.url, len(found.ID) == sha256Digits)
		if err != nil {
			return err
		}
		defer unlock()
		if err := s.ensure(ctx, c, g, repo, req, found); err != nil {
			return err
		}
		done()
		return f(g, repo)
	})
}

func report(progress func(solver.Status), id string) (done func()) {
	if progress == nil {
		return func() {}
	}
	st := solver.Status{ID: id, Started: time.Now()}
	progress(st)
	return func() {
		st.Completed = time.Now()
		progress(st)
	}
}
