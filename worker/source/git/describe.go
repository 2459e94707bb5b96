package git

import (
	"context"
	"fmt"
	"strings"

	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/client/llb/sourceresolver"
)

// Describe returns the commit, and with ReturnObject the commit's and the tag's
// object.
func (s *Source) Describe(ctx context.Context, c session.Client, r source.Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	req, err := parse(r)
	if err != nil {
		return nil, err
	}
	found, err := s.resolve(ctx, c, req, r)
	if err != nil {
		return nil, err
	}
	var objs objects
	if req.verify != nil || o.GitOpt != nil && o.GitOpt.ReturnObject {
		if objs, err = s.objects(ctx, c, req, &found, r.Progress); err != nil {
			return nil, err
		}
	}
	if req.verify != nil {
		if err := req.verify.check(objs, found); err != nil {
			return nil, fmt.Errorf("verify %s of %s: %w", found.Ref, req.remote.url, err)
		}
	}
	out := &sourceresolver.ResolveGitResponse{Checksum: found.ID, Ref: found.Ref, CommitChecksum: found.Commit}
	if o.GitOpt != nil && o.GitOpt.ReturnObject {
		out.CommitObject, out.TagObject = objs.commit, objs.tag
	}
	return &sourceresolver.MetaResponse{Op: r.Op(), Git: out}, nil
}

// objects are a commit as git stores it, and the tag that names it, if any.
type objects struct {
	commit, tag []byte
}

// objects fetches the commit. If found turns out to be a tag it says so then.
func (s *Source) objects(ctx context.Context, c session.Client, req request, found *commit, progress func(solver.Status)) (objects, error) {
	var out objects
	err := s.withCommit(ctx, c, req, *found, progress, func(g program, repo string) error {
		g.gitDir = repo
		kind, err := g.run(ctx, "cat-file", "-t", found.ID)
		if err != nil {
			return err
		}
		id := found.ID
		if strings.TrimSpace(kind) == "tag" {
			peeled, err := g.run(ctx, "rev-parse", "--verify", found.ID+"^{commit}")
			if err != nil {
				return err
			}
			id = strings.TrimSpace(peeled)
			found.Commit = id
			tag, err := g.run(ctx, "cat-file", "tag", found.ID)
			if err != nil {
				return err
			}
			out.tag = []byte(tag)
		}
		obj, err := g.run(ctx, "cat-file", "commit", id)
		out.commit = []byte(obj)
		return err
	})
	return out, err
}
