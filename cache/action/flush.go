package action

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache/internal/boltdb"
)

// write flushes until ctx ends.
func (s *Store) write(ctx context.Context) {
	wait, failed := s.cfg.Interval, false
	for {
		select {
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		if !s.gather(ctx, wait, failed) {
			return
		}
		begin := time.Now()
		err := s.Flush(ctx)
		wait, failed = max(s.cfg.Interval, 5*time.Since(begin)), err != nil
		if failed && ctx.Err() == nil {
			s.cfg.Log.Error("write action cache: what ran lately is only kept in memory", "err", err)
			wait = max(wait, retryInterval)
			s.wake()
		}
	}
}

// retryInterval is how long a disk that took nothing is left alone.
const retryInterval = 2 * time.Second

// gather waits until the time is over or, unless patient, the batch is full.
func (s *Store) gather(ctx context.Context, wait time.Duration, patient bool) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for patient || !s.full() {
		select {
		case <-timer.C:
			return true
		case <-s.kick:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *Store) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending.len() >= s.cfg.Batch
}

// wake makes write look at what is pending.
func (s *Store) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Flush makes durable whatever was written before it was called.
func (s *Store) Flush(ctx context.Context) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	b := s.pending
	s.pending, s.writing = newBatch(), b
	s.mu.Unlock()
	err := s.flush(ctx, b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = nil
	s.gen++
	if err == nil || errors.Is(err, boltdb.ErrDamaged) {
		return nil // of damage the database has told already
	}
	s.pending = s.pending.over(b)
	if n := s.pending.len(); n > maxPending {
		// All of it, so that no part is kept of what belongs together.
		s.pending = newBatch()
		return fmt.Errorf("%d entries are forgotten: %w", n, err)
	}
	return err
}

func (s *Store) flush(ctx context.Context, b *batch) error {
	if b.len() == 0 {
		return nil
	}
	if b.results() {
		if err := s.cfg.Barrier(ctx); err != nil {
			return fmt.Errorf("make results durable: %w", err)
		}
	}
	return s.db.Update(b.store)
}
