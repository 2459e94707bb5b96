package digest

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Match returns the paths that s names, sorted: absolute, without links in all
// but the last element, which is as it is written or, with a wildcard, as it is
// in the view. A wildcard may match nothing; a path without one that is not
// there is an error that wraps fs.ErrNotExist and names it as it was written.
func (v *View) Match(s Select) ([]string, error) {
	found, err := v.match(s)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(found))
	for i, f := range found {
		out[i] = f.path
	}
	return out, nil
}

// matched is a file that a Select names.
type matched struct {
	path string // as Match returns it
	rel  string // the part that counts: see Content
	node *node
}

func (v *View) match(s Select) ([]matched, error) {
	p := clean(s.Path)
	prefix, pattern := p, []string(nil)
	if s.Wildcard {
		prefix, pattern = splitWildcard(p)
	}
	w, err := v.walk(prefix, pattern != nil)
	if err != nil {
		return nil, selectError(s, err)
	}
	if pattern == nil {
		if w.node() == nil {
			return nil, selectError(s, fs.ErrNotExist)
		}
		return []matched{{w.path(), path.Base(p), w.node()}}, nil
	}
	for _, el := range pattern {
		if _, err := path.Match(el, ""); err != nil {
			return nil, selectError(s, err)
		}
	}
	if w.node() == nil {
		return nil, nil
	}
	found := v.glob(nil, matched{w.path(), "", w.node()}, pattern)
	slices.SortFunc(found, func(a, b matched) int { return strings.Compare(a.path, b.path) })
	return found, nil
}

// glob appends what pattern matches below at. Its elements are well-formed.
func (v *View) glob(found []matched, at matched, pattern []string) []matched {
	if len(pattern) == 0 {
		return append(found, at)
	}
	for _, k := range v.kids(at.node) {
		if ok, _ := path.Match(pattern[0], k.name); ok {
			found = v.glob(found, matched{path.Join(at.path, k.name), join(at.rel, k.name), k}, pattern[1:])
		}
	}
	return found
}

// follow resolves m where it is a link and s wants that.
func (v *View) follow(s Select, m matched) (*node, error) {
	e := v.entry(m.node)
	if !s.FollowLinks || !e.IsSymlink() {
		return m.node, nil
	}
	w, err := v.walk(m.path, true)
	if err != nil {
		return nil, selectError(s, err)
	}
	if w.node() == nil {
		return nil, selectError(s, fmt.Errorf("%q is a link to %q: %w", m.path, e.Link, fs.ErrNotExist))
	}
	return w.node(), nil
}

// selectError names the path as the user wrote it.
func selectError(s Select, err error) error {
	if err == fs.ErrNotExist {
		return missingError(s.Path)
	}
	return fmt.Errorf("select %q: %w", s.Path, err)
}

// missingError says what BuildKit's clients know a missing path by.
type missingError string

func (e missingError) Error() string { return fmt.Sprintf("%q: not found", string(e)) }
func (e missingError) Unwrap() error { return fs.ErrNotExist }
