package digest

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/cache"
)

// Selected is a file that a Select reaches.
type Selected struct {
	// Match is the path that named it, as View.Match returns it.
	Match string
	// Rel is where below Match it lies; "" if it is Match itself.
	Rel string
	// Entry is the file, with FollowLinks that which Match links to.
	Entry Entry
}

// WalkSelect calls fn for each file that s selects: a match, then what is
// selected in it, a directory before its files and those sorted by name. With
// Contents, too, fn sees the matching directory itself. An error of fn ends the
// walk. A path that is not there is an error as View.Match has it.
func (v *View) WalkSelect(ctx context.Context, s Select, fn func(Selected) error) error {
	found, err := v.match(s)
	if err != nil {
		return err
	}
	return v.walkMatches(ctx, s, found, func(m matched, rel string, e *Entry) error {
		return fn(Selected{Match: m.path, Rel: rel, Entry: *e})
	})
}

// Content is the digest of the files that s selects, in the order of its paths.
// Of each it covers all that Entry says but times and hard links, and its name:
// what a step that copies it sees of its path. That is the last element of a
// path without wildcards, else what the elements from the first wildcard on
// matched; of what is in a directory, the path relative to it. A wildcard
// without a match is content like any other. Errors are those of Match.
func (v *View) Content(ctx context.Context, s Selection) (cache.Key, error) {
	h := newHasher(kindSelection)
	for _, sel := range s.Paths {
		found, err := v.match(sel)
		if err != nil {
			return cache.Key{}, err
		}
		h.byte(itemSelect)
		h.string(fmt.Sprint(len(found)))
		err = v.walkMatches(ctx, sel, found, func(m matched, rel string, e *Entry) error {
			switch {
			case rel != "":
				h.byte(itemBelow)
				h.entry(rel, e)
			case sel.Contents && e.IsDir():
				h.byte(itemContents)
			default:
				h.byte(itemMatch)
				h.entry(m.rel, e)
			}
			return nil
		})
		if err != nil {
			return cache.Key{}, err
		}
	}
	return h.sum(), nil
}

// What introduces an item of a selection's digest, so that no two selections
// write the same bytes.
const (
	itemSelect   = 's' // a path of the selection and the number of its matches
	itemMatch    = 'm' // a match: its name and entry
	itemContents = 'c' // a match of which neither counts
	itemBelow    = 'b' // a file in the match before
)

// selectWalk goes through one match.
type selectWalk struct {
	ctx    context.Context
	v      *View
	filter filter
	emit   func(rel string, e *Entry) error
	seen   int
	// held are directories on the way down that were not selected by
	// themselves; a file in them that is brings them in.
	held []heldDir
}

type heldDir struct {
	rel string
	e   Entry
}

func (v *View) walkMatches(ctx context.Context, s Select, found []matched, emit func(m matched, rel string, e *Entry) error) error {
	f, err := newFilter(s)
	if err != nil {
		return selectError(s, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, m := range found {
		n, err := v.follow(s, m)
		if err != nil {
			return err
		}
		e := v.entry(n)
		if err := emit(m, "", &e); err != nil {
			return err
		}
		w := selectWalk{ctx: ctx, v: v, filter: f, emit: func(rel string, e *Entry) error { return emit(m, rel, e) }}
		if err := w.below(n, "", f.all()); err != nil {
			return err
		}
	}
	return nil
}

// below goes through what is in a directory.
func (w *selectWalk) below(dir *node, rel string, parent match) error {
	for _, k := range w.v.kids(dir) {
		if w.seen++; w.seen%4096 == 0 {
			if err := w.ctx.Err(); err != nil {
				return err
			}
		}
		sub := join(rel, k.name)
		m, err := w.filter.match(sub, parent)
		if err != nil {
			return err
		}
		if !m.selected && (k.dir == nil || !m.descend) {
			continue
		}
		w.held = append(w.held, heldDir{sub, w.v.entry(k)})
		n := len(w.held)
		if m.selected {
			if err := w.release(); err != nil {
				return err
			}
		}
		if k.dir != nil && m.descend {
			if err := w.below(k, sub, m); err != nil {
				return err
			}
		}
		if len(w.held) == n { // nothing in it was selected
			w.held = w.held[:n-1]
		}
	}
	return nil
}

// release emits the directories that lead to a selected file, and it.
func (w *selectWalk) release() error {
	for i := range w.held {
		if err := w.emit(w.held[i].rel, &w.held[i].e); err != nil {
			return err
		}
	}
	w.held = w.held[:0]
	return nil
}
