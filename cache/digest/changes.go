package digest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
)

// Change is a path in which two views differ.
type Change struct {
	Path string // absolute
	// Old and New are the entries at Path; nil where there is none.
	Old, New *Entry
}

// Changes calls fn for each path that sel selects and in which two views differ
// in what counts for Content. Of directories that were added or removed it
// tells only if nothing selected is in them. What both views have of one layer
// is not looked at, so the cost follows what the other layers hold. An error of
// fn ends the walk and is returned.
func Changes(ctx context.Context, old, new *View, sel cache.Selector, fn func(Change) error) error {
	c := &comparer{ctx: ctx, old: old, new: new, emit: fn, seen: map[string]bool{}}
	if sel == cache.Root {
		_, err := c.node("/", "", old.root, new.root, c.filter.all())
		return err
	}
	selection, err := ParseSelector(sel)
	if err != nil {
		return err
	}
	for _, s := range selection.Paths {
		if err := c.selected(s); err != nil {
			return err
		}
	}
	return nil
}

// comparer walks two views side by side.
type comparer struct {
	ctx      context.Context
	old, new *View
	emit     func(Change) error
	filter   filter
	contents bool // of the Select that is walked
	looked   int
	seen     map[string]bool // paths that were told of: selections may overlap
}

// selected compares what s selects. Of a view in which its path is not there, or
// leads nowhere, it selects nothing.
func (c *comparer) selected(s Select) (err error) {
	if c.filter, err = newFilter(s); err != nil {
		return selectError(s, err)
	}
	c.contents = s.Contents
	pairs := map[string]*pair{}
	for i, v := range []*View{c.old, c.new} {
		found, err := v.match(s)
		if err != nil {
			continue
		}
		for _, m := range found {
			n, err := v.follow(s, m)
			if err != nil {
				continue
			}
			if pairs[m.path] == nil {
				pairs[m.path] = &pair{}
			}
			pairs[m.path][i] = n
		}
	}
	for _, path := range slices.Sorted(maps.Keys(pairs)) {
		p := pairs[path]
		if _, err := c.node(path, "", p[0], p[1], c.filter.all()); err != nil {
			return err
		}
	}
	return nil
}

// pair is what two views have at one path; nil where there is nothing.
type pair [2]*node

// node compares what the views have at path, which is rel below what was
// selected. It returns whether anything selected is there in both.
func (c *comparer) node(path, rel string, old, new *node, m match) (both bool, err error) {
	if c.looked++; c.looked%4096 == 0 && c.ctx.Err() != nil {
		return false, context.Cause(c.ctx)
	}
	switch {
	case old == nil || new == nil:
		_, err := c.lone(path, rel, old, new, m)
		return false, err
	case !m.selected && (old.dir == nil || new.dir == nil): // what is in a directory counts
		if _, err := c.lone(path, rel, old, nil, m); err != nil {
			return false, err
		}
		_, err := c.lone(path, rel, nil, new, m)
		return false, err
	case old.dir == nil || new.dir == nil:
		if c.same(old, new) {
			return true, nil
		}
		return true, c.changed(path, old, new)
	case c.sameParts(old.dir, new.dir):
		return true, nil
	}
	both, err = c.below(path, rel, old, new, m)
	if err != nil {
		return both, err
	}
	both = both || m.selected
	if both && !(rel == "" && c.contents) && !c.same(old, new) {
		err = c.changed(path, old, new)
	}
	return both, err
}

// below compares what is in two directories.
func (c *comparer) below(path, rel string, old, new *node, m match) (both bool, err error) {
	os, ns := c.old.kids(old), c.new.kids(new)
	for len(os)+len(ns) > 0 {
		var o, n *node
		order := 0
		switch {
		case len(os) == 0:
			order = 1
		case len(ns) == 0:
			order = -1
		default:
			order = strings.Compare(os[0].name, ns[0].name)
		}
		if order <= 0 {
			o, os = os[0], os[1:]
		}
		if order >= 0 {
			n, ns = ns[0], ns[1:]
		}
		b, err := c.kid(path, rel, o, n, m)
		if err != nil {
			return both, err
		}
		both = both || b
	}
	return both, nil
}

// kid compares one name in a directory.
func (c *comparer) kid(path, rel string, old, new *node, parent match) (both bool, err error) {
	n := cmp.Or(new, old)
	sub := join(rel, n.name)
	m, err := c.filter.match(sub, parent)
	if err != nil {
		return false, err
	}
	dir := new != nil && new.dir != nil || old != nil && old.dir != nil
	if !m.selected && (!dir || !m.descend) {
		return false, nil
	}
	if !m.descend { // what is in it does not count
		old, new = shallow(old), shallow(new)
	}
	return c.node(strings.TrimSuffix(path, "/")+"/"+n.name, sub, old, new, m)
}

// shallow is a directory without what is in it.
func shallow(n *node) *node {
	if n == nil || n.dir == nil {
		return n
	}
	empty := &dirNode{}
	empty.once.Do(func() {})
	return &node{name: n.name, top: n.top, dir: empty}
}

// lone tells of what only one view has, and returns whether it told of anything.
func (c *comparer) lone(path, rel string, old, new *node, m match) (told bool, err error) {
	n := cmp.Or(new, old)
	if n.dir != nil {
		for _, k := range c.view(old).kids(n) {
			sub := join(rel, k.name)
			km, err := c.filter.match(sub, m)
			if err != nil {
				return told, err
			}
			if !km.selected && (k.dir == nil || !km.descend) {
				continue
			}
			o, n := k, (*node)(nil)
			if old == nil {
				o, n = nil, k
			}
			if !km.descend {
				o, n = shallow(o), shallow(n)
			}
			t, err := c.lone(strings.TrimSuffix(path, "/")+"/"+k.name, sub, o, n, km)
			if err != nil {
				return told, err
			}
			told = told || t
		}
	}
	if told || !m.selected {
		return told, nil
	}
	return true, c.changed(path, old, new)
}

// view is the one that has what only one has.
func (c *comparer) view(old *node) *View {
	if old != nil {
		return c.old
	}
	return c.new
}

func (c *comparer) changed(path string, old, new *node) error {
	if c.seen[path] {
		return nil
	}
	c.seen[path] = true
	ch := Change{Path: path}
	if old != nil {
		e := c.old.entry(old)
		ch.Old = &e
	}
	if new != nil {
		e := c.new.entry(new)
		ch.New = &e
	}
	return c.emit(ch)
}

// sameParts tells whether directories are made of the same directories of the
// same layers.
func (c *comparer) sameParts(old, new *dirNode) bool {
	return len(old.parts) > 0 && slices.EqualFunc(old.parts, new.parts, c.sameRef)
}

func (c *comparer) sameRef(a, b ref) bool {
	return a.layer != noLayer && b.layer != noLayer && a.entry == b.entry && c.old.layers[a.layer].Dir == c.new.layers[b.layer].Dir
}

// same compares all that counts of two entries, and not what is in them.
func (c *comparer) same(old, new *node) bool {
	if c.sameRef(old.top, new.top) {
		return true
	}
	if c.plainlySame(old.top, new.top) {
		return true
	}
	a, b := c.old.entry(old), c.new.entry(new)
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Hash == b.Hash && a.Link == b.Link &&
		a.Major == b.Major && a.Minor == b.Minor && maps.Equal(a.Xattrs, b.Xattrs)
}

// plainlySame is same for what most files of a tree are: regular ones and
// directories without extended attributes. It decodes nothing.
func (c *comparer) plainlySame(a, b ref) bool {
	if a.layer == noLayer || b.layer == noLayer {
		return false
	}
	x, y := c.old.layers[a.layer].Index, c.new.layers[b.layer].Index
	i, j := headerSize+int(a.entry)*recordSize, headerSize+int(b.entry)*recordSize
	if x.raw[i+recMode:i+recSec] != y.raw[j+recMode:j+recSec] || (u16(x.raw, i+recFlags)|u16(y.raw, j+recFlags))&flagXattrs != 0 {
		return false
	}
	switch e := (Entry{Mode: u32(x.raw, i+recMode)}); {
	case e.IsDir():
		return true
	case e.IsRegular():
		const n = 8 + sha256.Size // size and hash, see appendDetail
		i, j := int(u32(x.raw, i+recDetail)), int(u32(y.raw, j+recDetail))
		return x.heap[i:i+n] == y.heap[j:j+n]
	default:
		return false
	}
}
