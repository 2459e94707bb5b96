package gc

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
)

// graph is what holds what, at one moment. Only what is reachable from a holder
// or held is in it; the rest is garbage already.
type graph struct {
	nodes   map[cache.Tree]*node
	layers  map[cache.LayerID]*layerUse
	holders []*holder
	used    int64 // bytes
	// rows are the layers as du lists them.
	rows map[cache.LayerID]Record
}

// holder is a record of the action cache or of an Extra.
type holder struct {
	Record
	key   cache.Key // of the action cache
	extra Extra     // nil for a record of the action cache
	id    string    // for extra
	trees []cache.Tree
	tops  []*node // of trees
	held  bool    // one of them is
	own   int64   // bytes beside its trees'
}

// node is a tree.
type node struct {
	parent *node
	layer  *layerUse
	// kids are trees right over this one, holders those that name it, held that
	// something running does. Without any of them the tree is garbage.
	kids, holders int
	held, inUse   bool // it or a descendant, as tree.Info has them
	freed         bool // by plan
	lastUsed      time.Time
	waiting       []*holder // of those that wait for the kids to go
}

func (n *node) free() bool { return n.kids == 0 && n.holders == 0 && !n.held }

// layerUse is a layer with its blobs.
type layerUse struct {
	tree.LayerInfo
	nodes int
	blobs []*blobRef
	by    *holder // the last used of those whose tree it is on top of
	node  *node   // one of them
	count int     // uses by all of them
	last  time.Time
}

type blobRef struct {
	size   int64
	layers int
}

// graph reads all stores.
func (c *Collector) graph(ctx context.Context) (*graph, error) {
	g := &graph{nodes: map[cache.Tree]*node{}, layers: map[cache.LayerID]*layerUse{}}
	blobs, err := c.cacheBlobs(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.holders(ctx, func(h *holder) { g.holders = append(g.holders, h) }); err != nil {
		return nil, err
	}
	trees, infos := c.cfg.Trees.All()
	g.link(trees, infos)
	g.attach()
	g.trim(trees)
	g.weigh(blobs)
	g.rows = make(map[cache.LayerID]Record, len(g.layers))
	for id, l := range g.layers {
		g.rows[id] = l.record()
	}
	return g, nil
}

// holders calls fn for all holders, without their tops.
func (c *Collector) holders(ctx context.Context, fn func(*holder)) error {
	err := c.cfg.Actions.Each(ctx, func(k cache.Key, r cache.Record) error {
		fn(&holder{key: k, trees: r.Trees, Record: Record{
			CreatedAt: r.Created, LastUsedAt: r.LastUsed, UsageCount: r.UseCount,
			Description: r.Name, RecordType: cmp.Or(r.Kind, TypeRegular),
		}})
		return nil
	})
	if err != nil {
		return err
	}
	for _, x := range c.cfg.Extras {
		kept, err := x.Usage(ctx)
		if err != nil {
			return fmt.Errorf("list usage: %w", err)
		}
		for _, k := range kept {
			k.RecordType = cmp.Or(k.RecordType, TypeRegular)
			fn(&holder{Record: k.Record, extra: x, id: k.ID, trees: k.Trees, own: k.Size})
		}
	}
	return nil
}

// cacheBlobs returns the sizes of the blobs that are here only for the cache.
func (c *Collector) cacheBlobs(ctx context.Context) (map[digest.Digest]int64, error) {
	rooted, err := c.rooted(ctx)
	if err != nil {
		return nil, err
	}
	out := map[digest.Digest]int64{}
	err = c.cfg.Blobs.Walk(ctx, func(i content.Info) error {
		if !rooted[i.Digest] {
			out[i.Digest] = i.Size
		}
		return nil
	})
	return out, err
}

// link makes the nodes of all trees; parents come before their children.
func (g *graph) link(trees []tree.Info, infos map[cache.LayerID]tree.LayerInfo) {
	for id, info := range infos {
		g.layers[id] = &layerUse{LayerInfo: info}
	}
	for _, t := range trees {
		n := &node{layer: g.layers[t.Layer], parent: g.nodes[t.Parent], held: t.Held, inUse: t.InUse}
		if n.parent != nil {
			n.parent.kids++
		}
		n.layer.nodes++
		g.nodes[t.Tree] = n
	}
	for _, t := range slices.Backward(trees) {
		if n := g.nodes[t.Tree]; n.parent != nil {
			n.parent.held = n.parent.held || n.held
			n.parent.inUse = n.parent.inUse || n.inUse
		}
	}
}

// attach ties holders to their trees.
func (g *graph) attach() {
	for _, h := range g.holders {
		for _, t := range h.trees {
			n, ok := g.nodes[t]
			if !ok || slices.Contains(h.tops, n) {
				continue
			}
			h.tops = append(h.tops, n)
			n.holders++
			h.held = h.held || n.held
			if h.LastUsedAt.After(n.lastUsed) {
				n.lastUsed = h.LastUsedAt
			}
			l := n.layer
			l.count += h.UsageCount
			if l.by == nil || h.LastUsedAt.After(l.by.LastUsedAt) {
				l.by = h
			}
		}
		// For filters a holder goes by the name that du lists it under.
		if len(h.tops) > 0 {
			h.ID = string(h.tops[0].layer.ID)
		} else if h.extra == nil {
			h.ID = h.key.String()
		}
	}
}

// trim drops trees and layers that are garbage, children before their parents,
// and passes on when trees were used last.
func (g *graph) trim(trees []tree.Info) {
	for _, t := range slices.Backward(trees) {
		n := g.nodes[t.Tree]
		if n.free() {
			g.drop(n)
			delete(g.nodes, t.Tree)
			continue
		}
		l := n.layer
		if n.lastUsed.After(l.last) {
			l.last = n.lastUsed
		}
		if l.node == nil || n.inUse {
			l.node = n
		}
		if p := n.parent; p != nil && p.holders == 0 && n.lastUsed.After(p.lastUsed) {
			p.lastUsed = n.lastUsed
		}
	}
	for id, l := range g.layers {
		if l.nodes == 0 {
			delete(g.layers, id)
		}
	}
}

func (g *graph) drop(n *node) {
	n.layer.nodes--
	if n.parent != nil {
		n.parent.kids--
	}
}

// weigh sums up what is used.
func (g *graph) weigh(sizes map[digest.Digest]int64) {
	refs := map[digest.Digest]*blobRef{}
	for _, l := range g.layers {
		g.used += l.Size
		for _, d := range blobsOf(l.LayerInfo) {
			size, ok := sizes[d]
			if !ok {
				continue
			}
			b, ok := refs[d]
			if !ok {
				b = &blobRef{size: size}
				refs[d] = b
				g.used += size
			}
			b.layers++
			l.blobs = append(l.blobs, b)
		}
	}
	for _, h := range g.holders {
		g.used += h.own
	}
}

func blobsOf(l tree.LayerInfo) (out []digest.Digest) {
	if l.Desc != nil {
		out = append(out, l.Desc.Digest)
	}
	for _, p := range l.Packed {
		if !slices.Contains(out, p.Digest) {
			out = append(out, p.Digest)
		}
	}
	return out
}

// records are the lines of du, the last used first.
func (g *graph) records() []Record {
	var out []Record
	for id, r := range g.rows {
		// Layers that were never fetched are nothing to speak of.
		if r.Size > 0 || g.layers[id].by != nil {
			out = append(out, r)
		}
	}
	for _, h := range g.holders {
		if h.listed() {
			out = append(out, h.Record)
		}
	}
	slices.SortFunc(out, func(a, b Record) int {
		return cmp.Or(b.LastUsedAt.Compare(a.LastUsedAt), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// listed tells whether h has a line of its own in du, not just those of its
// trees' layers.
func (h *holder) listed() bool { return h.extra != nil && len(h.tops) == 0 }

func (l *layerUse) record() Record {
	r := Record{
		ID: string(l.ID), Size: l.Size, CreatedAt: l.Created, LastUsedAt: l.last,
		UsageCount: l.count, RecordType: TypeRegular, InUse: l.node.inUse,
	}
	for _, b := range l.blobs {
		r.Size += b.size / int64(b.layers)
	}
	if p := l.node.parent; p != nil {
		r.Parents = []string{string(p.layer.ID)}
	}
	switch {
	case l.by != nil:
		if l.by.tops[0].layer == l {
			r.Size += l.by.own
		}
		r.Description, r.RecordType = l.by.Description, l.by.RecordType
	case len(l.Sources) > 0:
		r.Description = "pulled from " + l.Sources[len(l.Sources)-1]
	}
	return r
}
