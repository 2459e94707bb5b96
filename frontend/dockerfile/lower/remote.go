package lower

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/buildd/buildd/frontend/dockerfile/gitref"
	"github.com/moby/buildkit/client/llb"
	digest "github.com/opencontainers/go-digest"
)

// remote is a source of ADD that is no path: a repository, or else a download.
type remote struct {
	url string
	git *gitref.Ref // nil for a download
}

// parseRemote returns nil for a path.
func parseRemote(src string) (*remote, error) {
	r, isGit, err := gitref.Parse(src)
	switch {
	case err == nil && isGit && !r.LikeLocal:
		return &remote{url: src, git: r}, nil
	case err != nil && isGit:
		return nil, err
	case strings.HasPrefix(src, "http://"), strings.HasPrefix(src, "https://"):
		return &remote{url: src}, nil
	default:
		return nil, nil
	}
}

// checkChecksum refuses --checksum for anything that has none.
func (t *transfer) checkChecksum() error {
	if t.checksum == "" {
		return nil
	}
	if len(t.SourcePaths) != 1 {
		return errors.New("checksum can't be specified for multiple sources")
	}
	r, err := parseRemote(t.SourcePaths[0])
	if err == nil && r == nil {
		err = errors.New("checksum requires HTTP(S) or Git sources")
	}
	return err
}

// copyRemote adds the copy of what is behind a URL to an action.
func (in *instruction) copyRemote(t *transfer, action *llb.FileAction, r *remote) (*llb.FileAction, error) {
	if !t.remote {
		if r.git != nil {
			return nil, fmt.Errorf("source can't be a git ref for %s: %q, use ADD", t.name, r.url)
		}
		return nil, fmt.Errorf("source can't be a URL for %s: %q, use ADD", t.name, r.url)
	}
	name := llb.WithCustomName(in.title(in.s, t.title, in.s.env))
	if r.git != nil {
		if err := r.apply(t.keepGitDir, t.checksum); err != nil {
			return nil, err
		}
		st := in.gitState(r.git, name, in.where(in.Location()))
		return action.Copy(st, "/", t.dest, t.options(llb.CopyInfo{})...), nil
	}
	sum, err := parseChecksum(t.checksum)
	if err != nil {
		return nil, err
	}
	file := fileName(r.url)
	st := llb.HTTP(r.url, llb.Filename(file), llb.Checksum(sum), name, describe(t.code), in.where(in.Location()))
	unpack := t.unpack != nil && *t.unpack
	return action.Copy(st, file, t.dest, t.options(llb.CopyInfo{AttemptUnpack: unpack})...), nil
}

// apply adds what the flags of ADD say to what the URL says; they must agree.
func (r *remote) apply(keepGitDir *bool, checksum string) error {
	g := r.git
	if keepGitDir != nil {
		if g.KeepGitDir != nil && *g.KeepGitDir != *keepGitDir {
			return fmt.Errorf("inconsistent keep-git-dir configuration: the flag says %t, the URL %t", *keepGitDir, *g.KeepGitDir)
		}
		g.KeepGitDir = keepGitDir
	}
	if checksum != "" {
		if g.Checksum != "" && g.Checksum != checksum {
			return fmt.Errorf("checksum mismatch %q != %q", checksum, g.Checksum)
		}
		g.Checksum = checksum
	}
	return nil
}

func (l *lowering) gitState(g *gitref.Ref, opts ...llb.GitOption) llb.State {
	opts = append(g.Options(), opts...)
	if l.o.Run.GitAdvice {
		opts = append(opts, llb.GitAdvice(true))
	}
	return llb.Git(g.Remote, "", opts...)
}

func parseChecksum(s string) (digest.Digest, error) {
	if s == "" {
		return "", nil
	}
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("checksum %q: %w (must be like sha256:HEX)", s, err)
	}
	return d, nil
}

// fileName is what a download is called.
func fileName(raw string) string {
	if u, err := url.Parse(raw); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return base
		}
	}
	return "__unnamed__"
}
