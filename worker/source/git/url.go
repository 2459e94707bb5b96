package git

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
)

var (
	schemeRegexp = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)
	// scpRegexp is USER@HOST:PATH[?QUERY][#FRAGMENT].
	scpRegexp = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):([^?#]*)(\?[^#]*)?(#.*)?$`)
	// commitRegexp is a whole SHA-1 or SHA-256.
	commitRegexp = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)
)

func isCommit(s string) bool { return commitRegexp.MatchString(s) }

// remote is where a repository is.
type remote struct {
	// url is what git is given, without a password.
	url    string
	scheme string
	host   string
	path   string
	// user and password are those of an http URL.
	user, password string
	// ref and subdir are those of the fragment (#REF:SUBDIR).
	ref, subdir string
	scp         bool
}

// parseRemote reads a remote of one of the protocols that are allowed; one
// without a protocol has https. ext::, file:// and paths of this host are not
// allowed, nor what git would take for an option.
func parseRemote(s string) (remote, error) {
	if m := scpRegexp.FindStringSubmatch(s); m != nil {
		r := remote{scheme: "ssh", host: m[2], path: m[3], scp: true, url: m[1] + "@" + m[2] + ":" + m[3]}
		return r.withFragment(strings.TrimPrefix(m[5], "#")).check(s)
	}
	if !schemeRegexp.MatchString(s) {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return remote{}, fmt.Errorf("git URL: %w", withoutURL(err))
	}
	r := remote{scheme: strings.ToLower(u.Scheme), host: u.Host, path: u.Path}
	switch r.scheme {
	case "http", "https":
		if u.User != nil {
			r.user = u.User.Username()
			r.password, _ = u.User.Password()
			u.User = nil
		}
	case "ssh", "git":
		if strings.HasPrefix(u.User.Username(), "-") { // ssh would take it for an option
			return remote{}, fmt.Errorf("git URL %s: it has no valid user", u.Redacted())
		}
		if _, ok := u.User.Password(); ok {
			return remote{}, fmt.Errorf("git URL %s: %s takes no password, pass --ssh default", u.Redacted(), r.scheme)
		}
	default:
		return remote{}, fmt.Errorf("git URL %s: protocol %q is not allowed: want https, http, ssh or git", u.Redacted(), u.Scheme)
	}
	r = r.withFragment(u.Fragment)
	u.Fragment, u.RawFragment, u.RawQuery, u.ForceQuery = "", "", "", false
	r.url = u.String()
	return r.check(u.Redacted())
}

// withoutURL drops the URL, which may hold a password, from a parse error.
func withoutURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

func (r remote) withFragment(f string) remote {
	ref, subdir, _ := strings.Cut(f, ":")
	r.ref, r.subdir = ref, strings.TrimPrefix(path.Join("/", subdir), "/")
	return r
}

func (r remote) check(shown string) (remote, error) {
	switch {
	case r.host == "" || strings.HasPrefix(r.host, "-"):
		return remote{}, fmt.Errorf("git URL %s: it has no valid host", shown)
	case strings.Trim(r.path, "/") == "" || strings.HasPrefix(strings.TrimPrefix(r.path, "/"), "-"):
		return remote{}, fmt.Errorf("git URL %s: it has no valid path", shown)
	case strings.ContainsAny(r.url, "\n\r\x00"):
		return remote{}, fmt.Errorf("git URL %q: it has a line break", shown)
	}
	return r, checkRef(r.ref)
}

// same tells whether both are one repository, however it is reached.
func (r remote) same(o remote) bool {
	return strings.EqualFold(r.host, o.host) && r.repository() == o.repository()
}

func (r remote) repository() string {
	return strings.TrimSuffix(path.Join("/", r.path), ".git")
}

// checkRef refuses what git would not take for a ref (git-check-ref-format(1))
// or would take for an option or a refspec.
func checkRef(ref string) error {
	if ref == "" {
		return nil
	}
	bad := strings.HasPrefix(ref, "-") || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "+") ||
		strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".lock") ||
		strings.Contains(ref, "..") || strings.Contains(ref, "//") || strings.Contains(ref, "@{") ||
		strings.ContainsAny(ref, " ~^:?*[\\\x7f") || strings.ContainsFunc(ref, func(c rune) bool { return c < ' ' })
	if bad {
		return fmt.Errorf("git ref %q: want a branch, a tag, refs/... or a commit", ref)
	}
	return nil
}
