package digest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/buildd/buildd/cache"
)

// Selection says which files of a tree a step sees. Encoded, it is a
// cache.Selector. Its strings are valid UTF-8, as those of LLB are.
type Selection struct {
	Paths []Select `json:"paths"`
}

// Select names one path, or with Wildcard all that match it.
type Select struct {
	// Path is absolute within the tree; symbolic links in all but its last
	// element are resolved within the tree.
	Path string `json:"path"`
	// FollowLinks resolves the last element too.
	FollowLinks bool `json:"followLinks,omitempty"`
	// Wildcard gives * ? and [ in Path the meaning that Go's path.Match gives
	// them, from the first element on that has one; links from there on are not
	// followed, but for the last element with FollowLinks. Elements before it are
	// taken as they are written, backslashes included.
	Wildcard bool `json:"wildcard,omitempty"`
	// Include and Exclude restrict a directory's files, as moby/patternmatcher
	// reads them, relative to that directory. A directory that holds a file that
	// counts, counts as well. They say nothing about the path itself.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// FollowPaths of a local context are handled before a tree exists.

	// Contents leaves the name and metadata of the selected directory itself
	// out: only what is in it counts. Of other files than directories it says
	// nothing.
	Contents bool `json:"contents,omitempty"`
}

// Selector encodes s. Selections that differ only in how a path is written
// have the same Selector.
func (s Selection) Selector() cache.Selector {
	c := Selection{Paths: make([]Select, len(s.Paths))}
	for i, p := range s.Paths {
		p.Path = clean(p.Path)
		c.Paths[i] = p
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("encode selection: %v", err)) // strings and booleans always encode
	}
	return cache.Selector(b)
}

// ParseSelector reads what Selector wrote. cache.Root and the empty Selector
// are no Selection.
func ParseSelector(c cache.Selector) (Selection, error) {
	fail := func(err error) (Selection, error) {
		return Selection{}, fmt.Errorf("parse selector %.200q: %w", string(c), err)
	}
	d := json.NewDecoder(strings.NewReader(string(c)))
	var s Selection
	if err := d.Decode(&s); err != nil {
		return fail(err)
	}
	if s.Selector() != c {
		return fail(errors.New("not what Selector writes"))
	}
	for _, p := range s.Paths {
		if err := p.check(); err != nil {
			return fail(err)
		}
	}
	return s, nil
}

// check tells what is wrong with s's patterns.
func (s Select) check() error {
	if _, err := newFilter(s); err != nil {
		return err
	}
	if !s.Wildcard {
		return nil
	}
	_, pattern := splitWildcard(s.Path)
	for _, el := range pattern {
		if _, err := path.Match(el, ""); err != nil {
			return fmt.Errorf("wildcard %q: %w", s.Path, err)
		}
	}
	return nil
}

func clean(p string) string { return path.Join("/", p) }

// splitWildcard splits a clean path before the first element that has a
// wildcard.
func splitWildcard(p string) (prefix string, pattern []string) {
	els := strings.Split(strings.Trim(p, "/"), "/")
	for i, el := range els {
		if hasWildcard(el) {
			return "/" + strings.Join(els[:i], "/"), els[i:]
		}
	}
	return p, nil
}

// hasWildcard tells whether an element has a wildcard that is not escaped.
func hasWildcard(el string) bool {
	for i := 0; i < len(el); i++ {
		switch el[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}
