package local

import (
	"context"
	"crypto/rand"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
)

// maxBases bounds how many earlier transfers are looked through for a file:
// parts of one directory, as different Dockerfiles or stages ask for.
const maxBases = 4

// bases are the earlier transfers that a new one can take files from. A nil
// *bases has none.
type bases struct {
	all   []base
	exact bool // the first is of the same part of the directory
	lease *tree.Lease
}

type base struct {
	index *digest.Index // as the client sent it
	view  *digest.View  // the files; their times may be others
}

// openBases leases and opens what there is. What cannot be opened is no base.
func (s *Source) openBases(ctx context.Context, family, variant string) *bases {
	b := &bases{lease: s.c.Trees.Lease("local-" + rand.Text())}
	for _, h := range s.snapshots.of(family, variant) {
		if len(b.all) == maxBases {
			break
		}
		if h.Tree == "" || b.lease.Add(h.Tree) != nil {
			continue
		}
		view, err := s.c.Trees.Files(ctx, h.Tree)
		if err != nil {
			continue
		}
		_, idx, err := readSnapshot(s.snapshots.path(h.id()), true)
		if err != nil {
			continue
		}
		b.exact = b.exact || h.Variant == variant
		b.all = append(b.all, base{index: idx, view: view})
	}
	return b
}

func (b *bases) close() {
	if b != nil {
		b.lease.Release()
	}
}

// find looks for a file that is, as far as a client can tell without reading
// it, the same as it.entry, and says in it where that lies.
func (b *bases) find(it *item) bool {
	if b == nil {
		return false
	}
	for _, base := range b.all {
		have, ok := base.index.Lookup(it.entry.Path)
		if !ok || !sameStat(have, it.entry) {
			continue
		}
		name := "/" + it.entry.Path
		lies, err := base.view.Lstat(name)
		if err != nil || lies.Hash != have.Hash {
			continue
		}
		from, err := base.view.HostPath(name)
		if err != nil {
			continue
		}
		it.entry.Hash, it.from = have.Hash, from
		// The tree may hold the content under the time of an earlier transfer.
		it.copied = !sameStat(lies, it.entry)
		return true
	}
	return false
}

// sameList tells whether list is exactly the newest base's.
func (b *bases) sameList(list []item) bool {
	if b == nil || !b.exact || b.all[0].index.Len() != len(list)+1 { // the root is not sent
		return false
	}
	first := firstNames(list)
	for _, it := range list {
		have, ok := b.all[0].index.Lookup(it.entry.Path)
		if !ok || have.Hash != it.entry.Hash || !sameStat(have, it.entry) {
			return false
		}
		link := first[it.entry.Path]
		if it.entry.Hardlink != "" {
			link = first[it.entry.Hardlink]
		}
		if link == it.entry.Path {
			link = ""
		}
		if have.Hardlink != link {
			return false
		}
	}
	return true
}

// firstNames maps the file that a client links others to, to the name under
// which an index has them: the first in byte order.
func firstNames(list []item) map[string]string {
	first := map[string]string{}
	for _, it := range list {
		if to := it.entry.Hardlink; to != "" {
			if first[to] == "" {
				first[to] = to
			}
			first[to] = min(first[to], it.entry.Path)
		}
	}
	return first
}
