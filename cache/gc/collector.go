package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/action"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/image"
	"github.com/buildd/buildd/cache/tree"
)

// ErrInUse is returned by an Extra for what it cannot evict now.
var ErrInUse = errors.New("is in use")

// Roots name blobs that must stay, such as those of the history of builds:
// manifests and indexes with all that they lead to but the layers, which belong
// to the cache and would keep the disk full.
type Roots interface {
	Roots(ctx context.Context) ([]ocispecs.Descriptor, error)
}

// Config says what is collected and when.
type Config struct {
	// Dir is on the disk whose free space counts.
	Dir     string
	Trees   *tree.Store
	Blobs   *blob.Store
	Actions *action.Store
	// Images keep what their names lead to; nil is none.
	Images *image.Store
	Roots  []Roots
	Extras []Extra
	// Policies are run one after another by Collect.
	Policies []Policy
	// Spare is how long a blob may be in the store before something names it.
	// Default: 10 minutes, as an exporter names its manifest when it has pushed
	// all layers.
	Spare time.Duration
	// Every is how often Run looks at the disk. Default: a minute.
	Every time.Duration
	// Forget is how long explanations of misses are kept. Default: 30 days.
	Forget time.Duration
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

func (c Config) applyDefaults() Config {
	c.Spare = cmp.Or(c.Spare, 10*time.Minute)
	c.Every = cmp.Or(c.Every, time.Minute)
	c.Forget = cmp.Or(c.Forget, 30*24*time.Hour)
	c.Log = cmp.Or(c.Log, slog.Default())
	return c
}

// Collector collects garbage. It is safe for concurrent use.
type Collector struct {
	cfg  Config
	kick chan struct{}

	collecting sync.Mutex // one at a time; held over I/O, guards nothing else
}

// New returns a collector.
func New(c Config) *Collector {
	return &Collector{cfg: c.applyDefaults(), kick: make(chan struct{}, 1)}
}

// Usage lists what the cache keeps and a filter matches, the last used first.
func (c *Collector) Usage(ctx context.Context, filters []string) ([]Record, error) {
	f, err := parseFilters(filters)
	if err != nil {
		return nil, err
	}
	g, err := c.graph(ctx)
	if err != nil {
		return nil, fmt.Errorf("list disk usage: %w", err)
	}
	var out []Record
	for _, r := range g.records() {
		if f.Match(adapt(&r)) {
			out = append(out, r)
		}
	}
	return out, nil
}

// Prune removes what p says and calls fn for each record that it removed. Then it
// removes whatever nothing names any more.
func (c *Collector) Prune(ctx context.Context, p Policy, fn func(Record) error) error {
	c.collecting.Lock()
	defer c.collecting.Unlock()
	if err := c.prune(ctx, p, fn); err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

func (c *Collector) prune(ctx context.Context, p Policy, fn func(Record) error) error {
	f, err := parseFilters(p.Filters)
	if err != nil {
		return err
	}
	if err := c.cfg.Trees.Settle(ctx); err != nil {
		return err
	}
	g, err := c.graph(ctx)
	if err != nil {
		return err
	}
	free, err := c.free()
	if err != nil {
		return err
	}
	evicted := g.plan(p, f, p.keep(g.used, free), time.Now())
	gone, err := c.evict(ctx, evicted)
	if err != nil {
		return err
	}
	removed, err := c.sweep(ctx, g)
	for _, r := range append(gone, removed...) {
		if ferr := fn(r); ferr != nil {
			return errors.Join(err, ferr)
		}
	}
	return err
}

// evict removes holders and returns those that du lists beside layers.
func (c *Collector) evict(ctx context.Context, hs []*holder) ([]Record, error) {
	var gone []Record
	var keys []cache.Key
	for _, h := range hs {
		if h.extra == nil {
			keys = append(keys, h.key)
			continue
		}
		err := h.extra.Evict(ctx, h.id)
		switch {
		case errors.Is(err, cache.ErrNotFound), errors.Is(err, ErrInUse):
			continue
		case err != nil:
			return gone, fmt.Errorf("evict %s %s: %w", h.RecordType, h.id, err)
		}
		if h.listed() {
			gone = append(gone, h.Record)
		}
	}
	return gone, c.cfg.Actions.Delete(ctx, keys...)
}

// sweep removes what nothing names, and returns the records of the layers among
// it.
func (c *Collector) sweep(ctx context.Context, g *graph) ([]Record, error) {
	var roots []cache.Tree
	err := c.holders(ctx, func(h *holder) { roots = append(roots, h.trees...) })
	if err != nil {
		return nil, err
	}
	infos, err := c.cfg.Trees.Sweep(ctx, roots)
	var removed []Record
	dead := map[digest.Digest]bool{}
	for _, info := range infos {
		for _, d := range blobsOf(info) {
			dead[d] = true
		}
		r, ok := g.rows[info.ID]
		if !ok { // garbage that du did not list
			r = Record{ID: string(info.ID), Size: info.Size, CreatedAt: info.Created, RecordType: TypeRegular}
		}
		removed = append(removed, r)
	}
	if err != nil {
		return removed, err
	}
	return removed, c.sweepBlobs(ctx, dead)
}

// Collect runs all policies.
func (c *Collector) Collect(ctx context.Context) error {
	c.collecting.Lock()
	defer c.collecting.Unlock()
	policies := c.cfg.Policies
	if len(policies) == 0 {
		// What nothing names goes all the same.
		policies = []Policy{{Filters: []string{"id==none"}}}
	}
	n, bytes := 0, int64(0)
	for i, p := range policies {
		err := c.prune(ctx, p, func(r Record) error {
			n++
			bytes += r.Size
			return nil
		})
		if err != nil {
			return fmt.Errorf("collect garbage: policy %d: %w", i, err)
		}
	}
	if n > 0 {
		c.cfg.Log.Info("collected garbage", "records", n, "bytes", bytes)
	}
	return nil
}

// Kick makes Run collect soon, as after a build.
func (c *Collector) Kick() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Run collects whenever it is kicked, and when the cache has grown, until ctx
// ends. However often it is kicked, collecting takes a tenth of the time at most.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	var grown int64
	var tidied time.Time
	for {
		select {
		case <-c.kick:
		case <-tick.C:
			if c.cfg.Trees.Size() <= grown {
				continue
			}
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("collect garbage", "err", err)
		}
		if time.Since(tidied) > 24*time.Hour {
			tidied = time.Now()
			if err := c.cfg.Actions.Tidy(ctx, tidied.Add(-c.cfg.Forget)); err != nil && ctx.Err() == nil {
				c.cfg.Log.Error("tidy action cache", "err", err)
			}
		}
		grown = c.cfg.Trees.Size()
		select {
		case <-time.After(9 * time.Since(begin)):
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Collector) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(c.cfg.Dir, &st); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", c.cfg.Dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
