package build

import (
	"context"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gitTime bounds what is asked of git: it is not worth more.
const gitTime = 5 * time.Second

// addRevision tells the daemon which commit of which repository a local context
// is, for provenance. Outside of a repository, or without git, it says nothing.
func addRevision(ctx context.Context, to map[string]string, dir string) {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	top := git("rev-parse", "--show-toplevel")
	if top == "" {
		return
	}
	set := func(k, v string) {
		if v != "" {
			to[k] = v
		}
	}
	set("vcs:source", withoutPassword(git("remote", "get-url", "origin")))
	rev := git("rev-parse", "HEAD")
	if rev != "" && git("status", "--porcelain", "--ignored=no", "--untracked-files=no") != "" {
		rev += "-dirty"
	}
	set("vcs:revision", rev)
	if abs, err := filepath.Abs(dir); err == nil {
		if abs, err = filepath.EvalSymlinks(abs); err == nil {
			if rel, err := filepath.Rel(top, abs); err == nil {
				set("vcs:localdir:context", rel)
			}
		}
	}
}

// withoutPassword removes what an URL holds of credentials.
func withoutPassword(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil || u.Scheme == "ssh" {
		return s
	}
	u.User = nil
	return u.String()
}
