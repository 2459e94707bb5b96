package action

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/internal/boltdb"
)

var (
	recordsBucket  = []byte("records")  // key -> JSON of cache.Record
	contentsBucket = []byte("contents") // contentKey -> digest, Unix time
	notesBucket    = []byte("notes")    // noteKeyOf -> Unix time, text
)

// contentKey is a key, an output, and the hash of a selector, which may be
// longer than a key of the database can be.
type contentKey [sha256.Size + 4 + sha256.Size]byte

func contentKeyOf(k cache.Key, output int, sel cache.Selector) (ck contentKey) {
	copy(ck[:], k[:])
	binary.BigEndian.PutUint32(ck[sha256.Size:], uint32(output))
	h := sha256.Sum256([]byte(sel))
	copy(ck[sha256.Size+4:], h[:])
	return ck
}

func (ck contentKey) key() cache.Key { return cache.Key(ck[:sha256.Size]) }

func noteKeyOf(target string) cache.Key { return cache.Hash("buildd note 1", []byte(target)) }

// view reads. A damaged database has nothing.
func (s *Store) view(fn func(tx *bbolt.Tx) error) error {
	err := s.db.View(fn)
	if errors.Is(err, boltdb.ErrDamaged) {
		return fmt.Errorf("%w: %w", cache.ErrNotFound, err)
	}
	return err
}

func (s *Store) storedRecord(k cache.Key) (r cache.Record, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(recordsBucket).Get(k[:])
		if v == nil {
			return notFound(k)
		}
		r, err = decodeRecord(k, v)
		return err
	})
	return r, err
}

// decodeRecord takes a record that makes no sense for one that is not there.
func decodeRecord(k cache.Key, v []byte) (r cache.Record, err error) {
	if err := json.Unmarshal(v, &r); err != nil {
		return r, fmt.Errorf("%w: %w", notFound(k), err)
	}
	return r, nil
}

func (s *Store) storedContent(k cache.Key, ck contentKey) (c cache.Key, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(contentsBucket).Get(ck[:])
		if len(v) < len(c) {
			return notFound(k)
		}
		copy(c[:], v)
		return nil
	})
	return c, err
}

func (s *Store) storedNote(nk cache.Key, target string) (text []byte, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(notesBucket).Get(nk[:])
		if len(v) < noteHead {
			return fmt.Errorf("last build of target %q: %w", target, cache.ErrNotFound)
		}
		text = bytes.Clone(v[noteHead:])
		return nil
	})
	return text, err
}

// noteHead is the size of the time in front of a note.
const noteHead = 8

// store writes the batch.
func (b *batch) store(tx *bbolt.Tx) error {
	for k := range b.wiped {
		if err := deletePrefix(tx.Bucket(contentsBucket), k[:]); err != nil {
			return err
		}
	}
	if err := b.storeRecords(tx.Bucket(recordsBucket)); err != nil {
		return err
	}
	for ck, c := range b.contents {
		v := binary.BigEndian.AppendUint64(bytes.Clone(c.Key[:]), uint64(c.at.Unix()))
		if err := tx.Bucket(contentsBucket).Put(ck[:], v); err != nil {
			return err
		}
	}
	for nk, n := range b.notes {
		v := binary.BigEndian.AppendUint64(nil, uint64(n.at.Unix()))
		if err := tx.Bucket(notesBucket).Put(nk[:], append(v, n.text...)); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) storeRecords(bucket *bbolt.Bucket) error {
	for k, r := range b.records {
		var err error
		if r == nil {
			err = bucket.Delete(k[:])
		} else {
			err = putJSON(bucket, k, r)
		}
		if err != nil {
			return err
		}
	}
	for k, u := range b.uses {
		v := bucket.Get(k[:])
		if v == nil {
			continue
		}
		r, err := decodeRecord(k, v)
		if err != nil {
			continue
		}
		if err := putJSON(bucket, k, u.applied(r)); err != nil {
			return err
		}
	}
	return nil
}

func putJSON(bucket *bbolt.Bucket, k cache.Key, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return bucket.Put(k[:], b)
}

func deletePrefix(bucket *bbolt.Bucket, prefix []byte) error {
	c := bucket.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Seek(prefix) {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// Each calls fn for every record, in no order. Records that change meanwhile are
// seen in either state.
func (s *Store) Each(ctx context.Context, fn func(cache.Key, cache.Record) error) error {
	all := map[cache.Key]cache.Record{}
	// What is gathered now is applied over what the disk has afterwards: nothing
	// can slip through between the two.
	s.mu.Lock()
	gathered := newBatch()
	for i := len(s.batchesLocked()) - 1; i >= 0; i-- {
		gathered = s.batchesLocked()[i].clone().over(gathered)
	}
	s.mu.Unlock()
	err := s.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(kb, v []byte) error {
			if len(kb) != sha256.Size {
				return nil
			}
			k := cache.Key(kb)
			if r, err := decodeRecord(k, v); err == nil {
				all[k] = gathered.uses[k].applied(r)
			}
			return ctx.Err()
		})
	})
	if err != nil && !errors.Is(err, cache.ErrNotFound) {
		return fmt.Errorf("list results: %w", err)
	}
	for k, r := range gathered.records {
		if delete(all, k); r != nil {
			all[k] = *r
		}
	}
	for k, r := range all {
		if err := fn(k, r); err != nil {
			return err
		}
	}
	return nil
}

// Tidy forgets notes of last builds, and content digests under keys that have no record,
// that are older than before.
func (s *Store) Tidy(ctx context.Context, before time.Time) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := tidyNotes(tx.Bucket(notesBucket), before); err != nil {
			return err
		}
		return tidyContents(tx, before)
	})
	if err != nil && !errors.Is(err, boltdb.ErrDamaged) {
		return fmt.Errorf("tidy action cache: %w", err)
	}
	return nil
}

func tidyNotes(bucket *bbolt.Bucket, before time.Time) error {
	return deleteIf(bucket, func(_, v []byte) bool {
		return len(v) < noteHead || time.Unix(int64(binary.BigEndian.Uint64(v)), 0).Before(before)
	})
}

func tidyContents(tx *bbolt.Tx, before time.Time) error {
	records := tx.Bucket(recordsBucket)
	return deleteIf(tx.Bucket(contentsBucket), func(k, v []byte) bool {
		if len(k) != len(contentKey{}) || len(v) != sha256.Size+8 {
			return true
		}
		at := time.Unix(int64(binary.BigEndian.Uint64(v[sha256.Size:])), 0)
		return at.Before(before) && records.Get(k[:sha256.Size]) == nil
	})
}

// deleteIf collects first: deleting under a cursor makes it skip.
func deleteIf(bucket *bbolt.Bucket, cond func(k, v []byte) bool) error {
	var gone [][]byte
	err := bucket.ForEach(func(k, v []byte) error {
		if cond(k, v) {
			gone = append(gone, bytes.Clone(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range gone {
		if err := bucket.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
