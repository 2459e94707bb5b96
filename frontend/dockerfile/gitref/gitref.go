package gitref

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/client/llb"
)

// ErrNotGit says that a string is no git URL; it may still be a path or a plain HTTP URL.
var ErrNotGit = errors.New("not a git URL")

// Ref is a parsed git URL. Zero fields were not asked for.
type Ref struct {
	Remote    string // what git itself is given: no query, no fragment
	ShortName string // last element of the remote without .git: the name of a clone
	Ref       string // commit, branch, tag or full reference name
	Checksum  string // commit that Ref must have
	SubDir    string // directory in the repository
	MTime     string // times of the files: "checkout" or "commit"

	// LikeLocal: the form github.com/owner/repo, which could also be a local path. Only a build context takes it for a URL.
	LikeLocal bool
	// Unencrypted: git:// or http://, which anybody on the way can change.
	Unencrypted bool
	// FetchByCommit: Checksum is believed, the remote's idea of Ref is not asked for.
	FetchByCommit bool
	KeepGitDir    *bool
	Submodules    *bool
}

var (
	scheme = regexp.MustCompile(`^([a-zA-Z0-9]+)://`)
	// scpLike is user@host:path, with an optional query and fragment.
	scpLike = regexp.MustCompile(`^([a-zA-Z0-9-_]+@[a-zA-Z0-9-.]+:)([^?#]*)(?:\?([^#]*))?(?:#(.*))?$`)
)

// Parse reads s. isGit is false where s has another form; the error then is [ErrNotGit] or says why the URL cannot be read.
// With isGit and an error, s is a git URL that asks for something unknown or contradictory.
func Parse(s string) (r *Ref, isGit bool, err error) {
	var query, fragment string
	switch {
	case strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return nil, false, ErrNotGit
	case strings.HasPrefix(s, "github.com/"):
		// Without a scheme the remote stays without: whoever clones tries https.
		if r, query, fragment, err = parseURL(s); err != nil {
			return nil, false, err
		}
		r.LikeLocal = true
	case scheme.MatchString(s):
		if r, query, fragment, err = parseURL(s); err != nil {
			return nil, false, err
		}
	default:
		m := scpLike.FindStringSubmatch(s)
		if m == nil {
			return nil, false, ErrNotGit
		}
		r = &Ref{Remote: m[1] + m[2]}
		query, fragment = m[3], m[4]
	}

	r.ShortName = strings.TrimSuffix(r.Remote[strings.LastIndexByte(r.Remote, '/')+1:], ".git")
	if ref, dir, _ := strings.Cut(fragment, ":"); fragment != "" {
		r.Ref = ref
		r.SubDir = strings.TrimPrefix(path.Join("/", dir), "/")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, true, fmt.Errorf("parse query of git URL %q: %w", s, err)
	}
	if err := r.apply(values); err != nil {
		return nil, true, fmt.Errorf("git URL %q: %w", s, err)
	}
	return r, true, nil
}

func parseURL(s string) (r *Ref, query, fragment string, err error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, "", "", err
	}
	switch u.Scheme {
	case "http", "https":
		// Any page could be behind it; only the suffix tells.
		if !strings.HasSuffix(u.Path, ".git") {
			return nil, "", "", ErrNotGit
		}
	case "ssh", "git", "":
	default:
		return nil, "", "", fmt.Errorf("protocol %q: %w", u.Scheme, ErrNotGit)
	}
	query, fragment = u.RawQuery, u.Fragment
	u.RawQuery, u.ForceQuery, u.Fragment, u.RawFragment = "", false, "", ""
	return &Ref{Remote: u.String(), Unencrypted: u.Scheme == "http" || u.Scheme == "git"}, query, fragment, nil
}

// Options are the options of llb.Git(r.Remote, "", ...) that r asks for.
func (r *Ref) Options() []llb.GitOption {
	opts := []llb.GitOption{llb.GitRef(r.Ref)}
	if r.KeepGitDir != nil && *r.KeepGitDir {
		opts = append(opts, llb.KeepGitDir())
	}
	if r.SubDir != "" {
		opts = append(opts, llb.GitSubDir(r.SubDir))
	}
	if r.Checksum != "" {
		opts = append(opts, llb.GitChecksum(r.Checksum))
	}
	if r.Submodules != nil && !*r.Submodules {
		opts = append(opts, llb.GitSkipSubmodules())
	}
	if r.MTime != "" {
		opts = append(opts, llb.GitMTime(r.MTime))
	}
	if r.FetchByCommit {
		opts = append(opts, llb.GitFetchByCommit())
	}
	return opts
}
