package draft

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/buildd/buildd/cache/digest"
)

// lister is what a wildcard is expanded in: a View or a Draft.
type lister interface {
	ReadDir(path string) ([]digest.Entry, error)
	Resolve(path string, followLast bool) (string, error)
}

// HasWildcard reports whether one of * ? [ stands in name unescaped.
func HasWildcard(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// Glob returns the paths in l that the pattern matches, sorted: elements as
// path.Match reads them. Links in the elements before the first wildcard are
// resolved, the last one of them only if followLinks; links that a wildcard
// matches are not followed. A pattern without wildcards is returned, cleaned.
func Glob(l lister, pattern string, followLinks bool) ([]string, error) {
	pattern = path.Clean("/" + pattern)
	all := names(pattern)
	plain := 0
	for plain < len(all) && !HasWildcard(all[plain]) {
		plain++
	}
	prefix := "/" + strings.Join(all[:plain], "/")
	if plain == len(all) {
		return []string{prefix}, nil
	}
	for _, p := range all[plain:] {
		if _, err := path.Match(p, ""); err != nil {
			return nil, &fs.PathError{Op: "match", Path: pattern, Err: err}
		}
	}
	root, err := l.Resolve(prefix, followLinks)
	if err != nil {
		return nil, err
	}
	return glob(l, root, all[plain:], nil)
}

func glob(l lister, dir string, patterns, out []string) ([]string, error) {
	entries, err := l.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := path.Base(e.Path)
		if ok, err := path.Match(patterns[0], name); err != nil || !ok {
			continue
		}
		p := join(dir, name)
		if len(patterns) == 1 {
			out = append(out, p)
			continue
		}
		if e.Mode&typeMask != dirMode {
			continue
		}
		if out, err = glob(l, p, patterns[1:], out); err != nil {
			return nil, err
		}
	}
	return out, nil
}
