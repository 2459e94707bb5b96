package gc

import (
	"container/heap"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
)

// plan chooses the holders that p removes, and takes them and what goes with them
// out of the graph, until no more than keep bytes are used.
func (g *graph) plan(p Policy, f filters.Filter, keep int64, now time.Time) []*holder {
	q := &queue{}
	for _, h := range g.holders {
		if p.covers(h, f, now) {
			heap.Push(q, h)
		}
	}
	var out []*holder
	for q.Len() > 0 && (!p.bounded() || g.used > keep) {
		h := heap.Pop(q).(*holder)
		freed, blocked := g.release(h)
		if blocked != nil {
			// Something is built on it, which goes first if it goes at all.
			blocked.waiting = append(blocked.waiting, h)
			continue
		}
		out = append(out, h)
		for _, n := range freed {
			if n.parent == nil || n.parent.kids > 0 {
				continue
			}
			for _, w := range n.parent.waiting {
				heap.Push(q, w)
			}
			n.parent.waiting = nil
		}
	}
	return out
}

// covers tells whether p allows to remove h at all.
func (p Policy) covers(h *holder, f filters.Filter, now time.Time) bool {
	if h.InUse || h.held {
		return false
	}
	if !p.All && (h.RecordType == TypeInternal || h.RecordType == TypeFrontend || h.Shared) {
		return false
	}
	if p.KeepDuration != 0 && h.LastUsedAt.After(now.Add(-p.KeepDuration)) {
		return false
	}
	return f.Match(adapt(&h.Record))
}

// release takes h out of the graph with all trees that only it held, which it
// returns. If trees are built on h's that others hold, nothing changes, and it
// returns the tree of h's.
func (g *graph) release(h *holder) (freed []*node, blocked *node) {
	for _, n := range h.tops {
		n.holders--
	}
	for _, n := range h.tops {
		freed = g.freeUp(n, freed)
	}
	for _, n := range h.tops {
		if n.kids > 0 {
			blocked = n
			break
		}
	}
	if blocked == nil {
		g.used -= h.own
		for _, n := range freed {
			g.forget(n.layer)
		}
		return freed, nil
	}
	for _, n := range freed {
		n.freed = false
		if n.parent != nil {
			n.parent.kids++
		}
	}
	for _, n := range h.tops {
		n.holders++
	}
	return nil, blocked
}

// freeUp frees n and then its ancestors for as long as nothing holds them.
func (g *graph) freeUp(n *node, freed []*node) []*node {
	for ; n != nil && !n.freed && n.free(); n = n.parent {
		n.freed = true
		freed = append(freed, n)
		if n.parent != nil {
			n.parent.kids--
		}
	}
	return freed
}

// forget takes a layer out of one tree less, and its bytes if that was the last.
func (g *graph) forget(l *layerUse) {
	if l.nodes--; l.nodes > 0 {
		return
	}
	g.used -= l.Size
	for _, b := range l.blobs {
		if b.layers--; b.layers == 0 {
			g.used -= b.size
		}
	}
}

// queue is a heap of holders, the least recently used on top.
type queue []*holder

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if !a.LastUsedAt.Equal(b.LastUsedAt) {
		return a.LastUsedAt.Before(b.LastUsedAt)
	}
	return a.UsageCount < b.UsageCount
}

func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *queue) Push(x any) { *q = append(*q, x.(*holder)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	h := (*q)[last]
	*q = (*q)[:last]
	return h
}
