package digest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Builder collects the entries of a layer in any order. The zero Builder is
// ready for use.
type Builder struct {
	entries []Entry
}

// Add takes an entry. Its Hardlink may name any other path of the same inode;
// Index makes that consistent.
func (b *Builder) Add(e Entry) { b.entries = append(b.entries, e.normalize()) }

// Index sorts what was added and checks it: no path twice, every path's
// directory there, hard links equal to what they name. A root that was not added
// is a directory of mode 0755 that belongs to 0:0.
func (b *Builder) Index() (*Index, error) {
	if len(b.entries) >= math.MaxInt32 {
		return nil, errors.New("index layer: too many files")
	}
	es := b.sorted()
	for i, e := range es {
		if err := checkEntry(e); err != nil {
			return nil, fmt.Errorf("index layer: %w", err)
		}
		if i > 0 && es[i-1].Path == e.Path {
			return nil, fmt.Errorf("index layer: %q is there twice", e.Path)
		}
	}
	links, err := linkGroups(es)
	if err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	var size int64
	for i := range es {
		if links[i] == i {
			size += es[i].Size
		}
	}
	x, err := encode(es, links, size)
	if err != nil {
		return nil, err
	}
	if err := x.check(); err != nil {
		return nil, fmt.Errorf("index layer: %w", err)
	}
	return x, nil
}

// sorted returns the entries in order, a root among them.
func (b *Builder) sorted() []Entry {
	order := make([]int32, len(b.entries)) // entries are large: they move once
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(i, j int32) int { return strings.Compare(b.entries[i].Path, b.entries[j].Path) })
	es := make([]Entry, 0, len(order)+1)
	if len(order) == 0 || b.entries[order[0]].Path != "" {
		es = append(es, defaultRoot())
	}
	for _, i := range order {
		es = append(es, b.entries[i])
	}
	return es
}

func defaultRoot() Entry {
	return Entry{Mode: unix.S_IFDIR | 0o755, ModTime: time.Unix(0, 0).UTC()}
}

// linkGroups returns for each of the sorted entries the number of the first one
// of its inode.
func linkGroups(es []Entry) ([]int, error) {
	group := make([]int, len(es)) // a union-find forest whose roots are the first of their set
	for i := range group {
		group[i] = i
	}
	root := func(i int) int {
		for group[i] != i {
			group[i] = group[group[i]]
			i = group[i]
		}
		return i
	}
	for i, e := range es {
		if e.Hardlink == "" || e.Hardlink == e.Path {
			continue
		}
		j, ok := slices.BinarySearchFunc(es, e.Hardlink, func(e Entry, p string) int { return strings.Compare(e.Path, p) })
		if !ok {
			return nil, fmt.Errorf("%q is a hard link to %q, which is not in the layer", e.Path, e.Hardlink)
		}
		if !sameInode(e, es[j]) {
			return nil, fmt.Errorf("%q is a hard link to %q, but they differ", e.Path, e.Hardlink)
		}
		a, b := root(i), root(j)
		group[max(a, b)] = min(a, b)
	}
	for i := range group {
		group[i] = root(i)
	}
	return group, nil
}

func sameInode(a, b Entry) bool {
	return a.Mode == b.Mode && !a.IsDir() && !a.Whiteout && !b.Whiteout && a.UID == b.UID && a.GID == b.GID &&
		a.Size == b.Size && a.ModTime.Equal(b.ModTime) && a.Link == b.Link && a.Major == b.Major &&
		a.Minor == b.Minor && a.Hash == b.Hash && maps.Equal(a.Xattrs, b.Xattrs)
}
