package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	bksession "github.com/moby/buildkit/session"
)

// Scheme is that of the identifiers, local://NAME.
const Scheme = "local"

// Trees is what the Source needs of tree.Store.
type Trees interface {
	Has(t cache.Tree) bool
	Files(ctx context.Context, t cache.Tree) (*digest.View, error)
	NewDraft(ctx context.Context, parent cache.Tree) (*tree.Draft, error)
	Lease(id string) *tree.Lease
}

// Config is what New needs.
type Config struct {
	Trees Trees
	// Dir keeps the snapshots.
	Dir string
	// IgnoreOwner keeps owners that cannot be set in digest.OwnerXattr.
	IgnoreOwner bool
}

// Source is the source of clients' directories.
type Source struct {
	c         Config
	snapshots *snapshots
}

// New returns a Source that goes on from the snapshots in c.Dir.
func New(c Config) (*Source, error) {
	s, err := openSnapshots(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open local sources: %w", err)
	}
	return &Source{c: c, snapshots: s}, nil
}

// Schemes is local.
func (s *Source) Schemes() []string { return []string{Scheme} }

// Pin transfers what changed. Its Key is the digest of all files, their times
// excepted.
func (s *Source) Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error) {
	req, err := parse(r)
	if err != nil {
		return source.Pin{}, err
	}
	attrs, err := json.Marshal(r.Attrs)
	if err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	data, err := r.Memo.Do(ctx, "local\n"+r.Identifier+"\n"+string(attrs), func(ctx context.Context) ([]byte, error) {
		res, err := s.transfer(ctx, c, req, r.Progress)
		if err != nil {
			return nil, err
		}
		return json.Marshal(res)
	})
	if err != nil {
		return source.Pin{}, err
	}
	var res result
	if err := json.Unmarshal(data, &res); err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	return source.Pin{Request: r, Key: res.Content.String(), Resolved: res.Content.String(), Tree: res.Tree}, nil
}

// Fetch returns the tree that Pin made. If that was evicted since, it transfers
// the files again, and fails if they have changed.
func (s *Source) Fetch(ctx context.Context, c session.Client, p source.Pin, progress func(solver.Status)) (cache.Tree, error) {
	if p.Tree != "" && s.c.Trees.Has(p.Tree) {
		return p.Tree, nil
	}
	req, err := parse(p.Request)
	if err != nil {
		return "", err
	}
	res, err := s.transfer(ctx, c, req, progress)
	if err != nil {
		return "", err
	}
	if res.Content.String() != p.Key {
		return "", fmt.Errorf("local directory %q changed while the build ran: build again", req.name)
	}
	return res.Tree, nil
}

// result is what a transfer brings.
type result struct {
	Tree    cache.Tree
	Content cache.Key
}

// transfer asks the session that the request names, and any other if that one
// does not give the directory out.
func (s *Source) transfer(ctx context.Context, c session.Client, r request, progress func(solver.Status)) (result, error) {
	var res result
	ask := func(id string) error {
		return session.On(ctx, c, id, func(ctx context.Context, _ string, caller bksession.Caller) error {
			var err error
			res, err = s.receive(ctx, caller, r, progress)
			return err
		})
	}
	err := ask(r.session)
	if r.session != "" && (errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrNoSession)) {
		if err2 := ask(""); err2 == nil {
			err = nil
		}
	}
	return res, err
}

func (s *Source) receive(ctx context.Context, caller bksession.Caller, r request, progress func(solver.Status)) (result, error) {
	family, variant := r.family(caller.SharedKey()), r.variant()
	var bases *bases
	if !r.full {
		bases = s.openBases(ctx, family, variant)
		defer bases.close()
	}
	t, err := newTransfer(s.c, bases, r)
	if err != nil {
		return result{}, err
	}
	defer t.discard()
	meter := newMeter("transferring "+r.name+":", progress)
	err = t.run(ctx, caller, meter)
	meter.add(t.reused())
	meter.done()
	if err != nil {
		return result{}, err
	}
	return s.finish(ctx, t, family, variant, r.name)
}

// finish makes a tree of what was received, unless one with the same content is
// there, and remembers the list for the next time.
func (s *Source) finish(ctx context.Context, t *transfer, family, variant, name string) (result, error) {
	idx, err := t.index()
	if err != nil {
		return result{}, fmt.Errorf("local directory %q: %w", name, err)
	}
	res := result{Content: idx.Content()}
	if res.Tree = s.snapshots.treeOf(res.Content); res.Tree == "" || !s.c.Trees.Has(res.Tree) {
		if res.Tree, err = t.commit(ctx, idx); err != nil {
			return result{}, fmt.Errorf("local directory %q: %w", name, err)
		}
	}
	h := header{Name: name, Family: family, Variant: variant, Tree: res.Tree, Content: res.Content, Used: time.Now()}
	if t.unchanged() {
		return res, s.snapshots.touch(h)
	}
	return res, s.snapshots.save(h, idx)
}
