package agent

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// collectEvery is how often Maintain looks after the stores.
	collectEvery = time.Minute
	// spareBlobs is how long a blob may be here before a layer names it.
	spareBlobs = 10 * time.Minute
)

// Maintain makes what clients put durable and collects garbage, now and then,
// until ctx ends.
func (s *Server) Maintain(ctx context.Context) error {
	t := time.NewTicker(collectEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := errors.Join(s.cfg.Trees.Sync(ctx), s.Collect(ctx)); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("collect garbage", "error", err)
		}
	}
}

// Collect ends the leases that have run out, and removes what no lease keeps. If
// more is used than may be, it goes on with the leases that were used least
// recently. What a running step needs stays.
func (s *Server) Collect(ctx context.Context) error {
	before := s.leases.now().Add(-s.cfg.LeaseTime)
	for {
		s.leases.expire(before)
		if err := s.sweep(ctx); err != nil {
			return err
		}
		over, err := s.over()
		if err != nil || !over || ctx.Err() != nil {
			return err
		}
		var ok bool
		if before, ok = s.leases.oldest(); !ok {
			s.cfg.Log.Warn("running steps use more disk space than there should be used")
			return nil
		}
	}
}

func (s *Server) sweep(ctx context.Context) error {
	gone, err := s.cfg.Trees.Sweep(ctx, nil)
	if err != nil {
		return err
	}
	named := s.cfg.Trees.Blobs()
	swept, err := s.cfg.Blobs.Sweep(ctx, spareBlobs, func(d digest.Digest) bool { return named[d] })
	if len(gone) > 0 || swept.Blobs > 0 {
		s.cfg.Log.Debug("removed what was not used", "layers", len(gone), "blobs", swept.Blobs)
	}
	return err
}

// over tells whether more space is used than may be.
func (s *Server) over() (bool, error) {
	if s.cfg.MaxUsed > 0 {
		var used int64
		_, layers := s.cfg.Trees.All()
		for _, l := range layers {
			used += l.Size
		}
		if used > s.cfg.MaxUsed {
			return true, nil
		}
	}
	if s.cfg.MinFree <= 0 {
		return false, nil
	}
	free, err := freeBytes(s.cfg.Dir)
	return free < s.cfg.MinFree, err
}
