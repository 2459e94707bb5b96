package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
)

// bundleName is the file of a request for a bundle.
const bundleName = "bundle"

// saveBundle stores the bundle that the request names in a file of its own.
func (s *Source) saveBundle(ctx context.Context, c session.Client, req request) (string, error) {
	if s.c.Bundles == nil {
		return "", fmt.Errorf("git source %s: bundles are not supported here", req.remote.url)
	}
	f, err := os.CreateTemp(s.tmp(), "bundle-")
	if err != nil {
		return "", fmt.Errorf("save git bundle: %w", err)
	}
	f.Close()
	r := source.Request{Identifier: req.from, Attrs: map[string]string{
		pb.AttrOCILayoutSessionID: req.fromSession,
		pb.AttrOCILayoutStoreID:   req.fromStore,
	}}
	if err := s.c.Bundles.Save(ctx, c, r, f.Name()); err != nil {
		return "", errors.Join(fmt.Errorf("save git bundle: %w", err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// importBundle brings all of the request's bundle into g's repository.
func (s *Source) importBundle(ctx context.Context, c session.Client, g program, req request) error {
	path, err := s.saveBundle(ctx, c, req)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	if _, err := g.run(ctx, "fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", path, "+refs/*:refs/buildd/bundle/*"); err != nil {
		return fmt.Errorf("import git bundle %s: %w", req.from, err)
	}
	return nil
}

// checkoutBundle makes a tree with the one file "bundle": the history of the
// commit, under the ref that was asked for.
func (s *Source) checkoutBundle(ctx context.Context, g program, repo string, req request, found commit) (cache.Tree, error) {
	dir, err := s.borrow(ctx, g, repo, len(found.ID) == sha256Digits)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	g = g.in(dir, "")
	ref := found.Ref
	if !strings.HasPrefix(ref, "refs/") {
		ref = "refs/heads/bundle"
	}
	if _, err := g.run(ctx, "update-ref", ref, found.ID); err != nil {
		return "", err
	}
	d, err := s.c.Trees.NewDraft(ctx, "")
	if err != nil {
		return "", fmt.Errorf("check out %s: %w", req.remote.url, err)
	}
	out, err := func() (cache.Tree, error) {
		path := filepath.Join(d.Dir, bundleName)
		if _, err := g.run(ctx, "bundle", "create", "-q", path, ref); err != nil {
			return "", err
		}
		epoch := time.Unix(0, 0)
		if err := os.Chtimes(path, epoch, epoch); err != nil {
			return "", err
		}
		return d.Commit(ctx, nil)
	}()
	if err != nil {
		d.Discard()
		return "", fmt.Errorf("check out %s as a bundle: %w", req.remote.url, err)
	}
	return out, nil
}
