package git

import (
	"context"
	"fmt"
	"strings"
)

const sha256Digits = 64

// known returns the commit of requests that name it.
func (r *request) known() (commit, bool) {
	switch {
	case isCommit(r.ref):
		return commit{Ref: r.ref, ID: r.ref}, true
	case r.fetchByCommit:
		ref := r.ref
		if ref == "" {
			ref = r.checksum
		} else if !strings.HasPrefix(ref, "refs/") {
			ref = "refs/heads/" + ref
		}
		return commit{Ref: ref, ID: r.checksum}, true
	case r.from != "" && r.ref == "":
		return commit{Ref: r.checksum, ID: r.checksum}, true
	default:
		return commit{}, false
	}
}

// ask asks a remote what the request's ref is.
func (g program) ask(ctx context.Context, req request, url string) (commit, error) {
	var found commit
	var err error
	if req.ref == "" {
		found, err = g.askHead(ctx, url)
	} else {
		found, err = g.askRef(ctx, url, req.ref)
	}
	if err != nil {
		return commit{}, fmt.Errorf("resolve git repository %s: %w", req.remote.url, err)
	}
	if !strings.HasPrefix(found.ID, req.checksum) && !strings.HasPrefix(found.Commit, req.checksum) {
		got := found.ID
		if found.Commit != "" {
			got += " or " + found.Commit
		}
		return commit{}, fmt.Errorf("resolve git repository %s: expected checksum to match %s, got %s", req.remote.url, req.checksum, got)
	}
	return found, nil
}

// askHead finds the default branch.
func (g program) askHead(ctx context.Context, url string) (commit, error) {
	out, err := g.run(ctx, "ls-remote", "--symref", "--", url, "HEAD")
	if err != nil {
		return commit{}, err
	}
	var c commit
	for line := range strings.Lines(out) {
		value, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name != "HEAD" {
			continue
		}
		if ref, ok := strings.CutPrefix(value, "ref: "); ok {
			c.Ref = ref
		} else if isCommit(value) {
			c.ID = value
		}
	}
	if c.ID == "" {
		return commit{}, fmt.Errorf("it has no default branch: name one as #BRANCH")
	}
	if c.Ref == "" { // a server that does not say which branch HEAD is
		c.Ref = c.ID
	}
	return c, checkRef(c.Ref)
}

// askRef finds a branch, a tag or a whole ref; a branch before a tag, as
// git-checkout(1) does.
func (g program) askRef(ctx context.Context, url, ref string) (commit, error) {
	out, err := g.run(ctx, "ls-remote", "--", url, ref, ref+"^{}")
	if err != nil {
		return commit{}, err
	}
	refs := map[string]string{}
	for line := range strings.Lines(out) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && isCommit(id) {
			refs[name] = id
		}
	}
	for _, name := range []string{
		"refs/" + strings.TrimPrefix(ref, "refs/"),
		"refs/heads/" + strings.TrimPrefix(ref, "refs/heads/"),
		"refs/tags/" + strings.TrimPrefix(ref, "refs/tags/"),
	} {
		if id, ok := refs[name]; ok {
			return commit{Ref: name, ID: id, Commit: refs[name+"^{}"]}, nil
		}
	}
	return commit{}, fmt.Errorf("repository does not contain ref %s: want a branch, a tag, refs/... or a whole commit", ref)
}
