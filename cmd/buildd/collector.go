package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/source/git"
	"github.com/buildd/buildd/worker/source/local"
	control "github.com/moby/buildkit/api/services/control"
	types "github.com/moby/buildkit/api/types"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// newCollector makes what keeps the state directory within its limits.
func (d *daemon) newCollector(c config.Config, s stores, src sources, st *steps) (*gc.Collector, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.Root, &fs); err != nil {
		return nil, fmt.Errorf("measure disk of %s: %w", c.Root, err)
	}
	policies := gcPolicies(c.Workers.OCI, int64(fs.Blocks)*fs.Bsize)
	st.policies = policyRecords(policies)
	extras := []gc.Extra{localExtra{src.local}, gitExtra{src.git}}
	if st.caches != nil {
		extras = append(extras, cacheMounts{st.caches})
	}
	return gc.New(gc.Config{
		Dir: c.Root, Trees: s.trees, Blobs: s.blobs, Actions: s.actions, Images: s.images,
		Roots: []gc.Roots{s.history}, Extras: extras, Policies: policies, Log: d.log,
	}), nil
}

// gcPolicies returns the configured policies, or BuildKit's.
func gcPolicies(w config.Worker, disk int64) []gc.Policy {
	if w.GC != nil && !*w.GC {
		return nil
	}
	if len(w.GCPolicy) == 0 {
		l := gc.DefaultLimits(disk)
		for _, o := range []struct{ to, from *gc.Space }{
			{&l.Reserved, &w.GCKeepStorage}, {&l.Reserved, &w.ReservedSpace}, {&l.MaxUsed, &w.MaxUsedSpace}, {&l.MinFree, &w.MinFreeSpace},
		} {
			if *o.from != (gc.Space{}) {
				*o.to = *o.from
			}
		}
		return gc.DefaultPolicies(l, disk)
	}
	var out []gc.Policy
	for _, p := range w.GCPolicy {
		reserved := p.ReservedSpace
		if reserved == (gc.Space{}) {
			reserved = p.KeepBytes
		}
		out = append(out, gc.Policy{
			All: p.All, Filters: p.Filters, KeepDuration: p.KeepDuration.Duration,
			ReservedSpace: reserved.Of(disk), MaxUsedSpace: p.MaxUsedSpace.Of(disk), MinFreeSpace: p.MinFreeSpace.Of(disk),
		})
	}
	return out
}

func policyRecords(ps []gc.Policy) []*types.GCPolicy {
	var out []*types.GCPolicy
	for _, p := range ps {
		out = append(out, &types.GCPolicy{
			All: p.All, Filters: p.Filters, KeepDuration: int64(p.KeepDuration),
			ReservedSpace: p.ReservedSpace, MaxUsedSpace: p.MaxUsedSpace, MinFreeSpace: p.MinFreeSpace,
		})
	}
	return out
}

// usage implements control.Usage over a collector.
type usage struct{ c *gc.Collector }

func (u usage) Usage(ctx context.Context, req *control.DiskUsageRequest) ([]*control.UsageRecord, error) {
	rs, err := u.c.Usage(ctx, req.Filter)
	var out []*control.UsageRecord
	for _, r := range rs {
		if age := time.Duration(req.AgeLimit); age > 0 && !r.LastUsedAt.IsZero() && time.Since(r.LastUsedAt) < age {
			continue
		}
		out = append(out, usageRecord(r))
	}
	return out, err
}

func (u usage) Prune(ctx context.Context, req *control.PruneRequest, removed func(*control.UsageRecord) error) error {
	return u.c.Prune(ctx, gc.Policy{
		All: req.All, Filters: req.Filter, KeepDuration: time.Duration(req.KeepDuration),
		ReservedSpace: req.ReservedSpace, MaxUsedSpace: req.MaxUsedSpace, MinFreeSpace: req.MinFreeSpace,
	}, func(r gc.Record) error { return removed(usageRecord(r)) })
}

func usageRecord(r gc.Record) *control.UsageRecord {
	out := &control.UsageRecord{
		ID: r.ID, Mutable: r.Mutable, InUse: r.InUse, Size: r.Size, Parents: r.Parents, CreatedAt: timestamppb.New(r.CreatedAt),
		UsageCount: int64(r.UsageCount), Description: r.Description, RecordType: r.RecordType, Shared: r.Shared,
	}
	if !r.LastUsedAt.IsZero() {
		out.LastUsedAt = timestamppb.New(r.LastUsedAt)
	}
	return out
}

// cacheMounts are the directories of RUN --mount=type=cache.
type cacheMounts struct{ c *mount.Caches }

func (m cacheMounts) Usage(ctx context.Context) ([]gc.Kept, error) {
	us, err := m.c.Usage(ctx)
	var out []gc.Kept
	for _, u := range us {
		out = append(out, gc.Kept{Record: gc.Record{
			ID: u.Name, Mutable: true, InUse: u.InUse, Size: u.Size, CreatedAt: u.Created, LastUsedAt: u.LastUsed,
			UsageCount: u.UseCount, Description: u.Description, RecordType: gc.TypeCacheMount,
		}})
	}
	return out, err
}

func (m cacheMounts) Evict(ctx context.Context, id string) error {
	err := m.c.Remove(ctx, id)
	if errors.Is(err, mount.ErrInUse) {
		return errors.Join(gc.ErrInUse, err)
	}
	return err
}

// localExtra are the lists of clients' directories.
type localExtra struct{ s *local.Source }

func (l localExtra) Usage(context.Context) ([]gc.Kept, error) {
	var out []gc.Kept
	for _, k := range l.s.Usage() {
		out = append(out, gc.Kept{Trees: []cache.Tree{k.Tree}, Record: gc.Record{
			ID: k.ID, Mutable: true, Size: k.Size, CreatedAt: k.Used, LastUsedAt: k.Used, UsageCount: 1,
			Description: "local source for " + k.Name, RecordType: gc.TypeLocal,
		}})
	}
	return out, nil
}

func (l localExtra) Evict(_ context.Context, id string) error { return l.s.Evict(id) }

// gitExtra are the repositories that were fetched.
type gitExtra struct{ s *git.Source }

func (g gitExtra) Usage(context.Context) ([]gc.Kept, error) {
	ks, err := g.s.Usage()
	var out []gc.Kept
	for _, k := range ks {
		out = append(out, gc.Kept{Record: gc.Record{
			ID: filepath.Base(k.ID), Mutable: true, Size: k.Size, CreatedAt: k.Used, LastUsedAt: k.Used, UsageCount: 1,
			Description: "git repository " + k.Remote, RecordType: gc.TypeGitCheckout,
		}})
	}
	return out, err
}

func (g gitExtra) Evict(_ context.Context, id string) error {
	err := g.s.Evict(id)
	if errors.Is(err, git.ErrInUse) {
		return errors.Join(gc.ErrInUse, err)
	}
	return err
}
