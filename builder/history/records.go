package history

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// put enters records into the database.
func (s *Store) put(list []*entry) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, e := range list {
			b, err := proto.Marshal(e.rec)
			if err != nil {
				return fmt.Errorf("save record of build %s: %w", e.rec.Ref, err)
			}
			if err := tx.Bucket(stepsBucket).Put([]byte(e.rec.Ref), e.steps); err != nil {
				return err
			}
			if err := tx.Bucket(recordsBucket).Put([]byte(e.rec.Ref), b); err != nil {
				return err
			}
		}
		return nil
	})
}

// all returns the records, newest first.
func (s *Store) all() ([]*control.BuildHistoryRecord, error) {
	by := s.pendingRecords() // first: they go from there to the database
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(ref, b []byte) error {
			rec := &control.BuildHistoryRecord{}
			if err := proto.Unmarshal(b, rec); err != nil {
				return fmt.Errorf("read record of build %s: %w", ref, err)
			}
			by[rec.Ref] = rec
			return nil
		})
	})
	out := slices.Collect(maps.Values(by))
	slices.SortFunc(out, func(a, b *control.BuildHistoryRecord) int { return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime()) })
	return out, err
}

func (s *Store) get(ref string) (*control.BuildHistoryRecord, error) {
	if e := s.pendingEntry(ref); e != nil {
		return e.rec, nil
	}
	rec := &control.BuildHistoryRecord{}
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("build %q: %w", ref, ErrNotFound)
		}
		return proto.Unmarshal(b, rec)
	})
	return rec, err
}

// trim removes the records that are too old or too many.
func (s *Store) trim() error {
	recs, err := s.all()
	if err != nil {
		return err
	}
	kept := int64(0)
	for _, r := range recs {
		if r.Pinned {
			continue
		}
		if kept++; kept <= *s.MaxEntries && time.Since(r.CompletedAt.AsTime()) < s.MaxAge {
			continue
		}
		if err := s.remove(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remove(rec *control.BuildHistoryRecord) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(stepsBucket).Delete([]byte(rec.Ref)); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).Delete([]byte(rec.Ref))
	})
	if err != nil {
		return fmt.Errorf("remove record of build %s: %w", rec.Ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked(control.BuildHistoryEventType_DELETED, rec)
	return nil
}

// Update implements UpdateBuildHistory: it completes, pins, unpins or deletes a
// record.
func (s *Store) Update(ctx context.Context, req *control.UpdateBuildHistoryRequest) error {
	if req.Finalize || req.Delete {
		if err := s.finalize(ctx, req.Ref); err != nil {
			return err
		}
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	switch {
	case req.Delete:
		rec, err := s.get(req.Ref)
		if err != nil {
			return err
		}
		return s.remove(rec)
	case req.Finalize:
		return nil
	default:
		return s.modify(req.Ref, func(r *control.BuildHistoryRecord) { r.Pinned = req.Pinned })
	}
}

// modify changes a record that is not pending, and tells those who listen.
func (s *Store) modify(ref string, change func(*control.BuildHistoryRecord)) error {
	rec := &control.BuildHistoryRecord{}
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("build %q: %w", ref, ErrNotFound)
		}
		if err := proto.Unmarshal(b, rec); err != nil {
			return fmt.Errorf("read record of build %s: %w", ref, err)
		}
		change(rec)
		rec.Generation++
		b, err := proto.Marshal(rec)
		if err != nil {
			return fmt.Errorf("save record: %w", err)
		}
		return tx.Bucket(recordsBucket).Put([]byte(ref), b)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked(control.BuildHistoryEventType_COMPLETE, rec)
	return nil
}

// Roots lists what the records point to: logs, errors, traces, attestations and
// the images themselves, so that a record shows what it says for as long as it
// is kept.
func (s *Store) Roots(context.Context) ([]ocispecs.Descriptor, error) {
	recs, err := s.all()
	if err != nil {
		return nil, err
	}
	var out []ocispecs.Descriptor
	add := func(ds ...*control.Descriptor) {
		for _, d := range ds {
			if d != nil {
				out = append(out, ocispecs.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size})
			}
		}
	}
	for _, r := range recs {
		add(r.Logs, r.Trace, r.ExternalError)
		infos := []*control.BuildResultInfo{r.Result}
		for _, i := range r.Results {
			infos = append(infos, i)
		}
		for _, i := range infos {
			add(i.GetAttestations()...)
			for _, d := range i.GetResults() {
				add(d)
			}
		}
	}
	return out, nil
}
