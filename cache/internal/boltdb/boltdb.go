// Package boltdb opens the bbolt databases of the stores. They hold nothing
// that cannot be had again, so a damaged database is not a reason to stop: it is
// moved aside, loudly, and the store starts cold.
package boltdb

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrDamaged is returned, wrapped, once a database has turned out to be damaged.
// It stays so until the next Open moves it aside.
var ErrDamaged = errors.New("database is damaged")

// lockTimeout is how long Open waits for another process to let go, which a
// daemon that is being restarted does within it.
const lockTimeout = time.Second

// DB is an open database whose damage is an error, not a crash.
type DB struct {
	path    string
	log     *slog.Logger
	bolt    *bbolt.DB
	damaged atomic.Bool
}

// Open opens the database at path, creates it and its buckets if they are
// missing, and reads through it. If it is damaged it is renamed to
// path.damaged-TIME and an empty one takes its place. A database that another
// process has open is an error.
func Open(path string, log *slog.Logger, buckets ...string) (*DB, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("create directory of database: %w", err)
	}
	if _, err := os.Lstat(marker(path)); err == nil {
		if err := moveAside(path, log, ErrDamaged); err != nil {
			return nil, err
		}
	}
	d, err := open(path, log, buckets)
	if err == nil || !isDamage(err) {
		return d, err
	}
	if err := moveAside(path, log, err); err != nil {
		return nil, err
	}
	return open(path, log, buckets)
}

func open(path string, log *slog.Logger, buckets []string) (*DB, error) {
	d := &DB{path: path, log: log}
	err := guard(func() (err error) {
		d.bolt, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open database %s: another process has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	if err := guard(func() error { return d.prepare(buckets) }); err != nil {
		// bbolt's own Close may stumble over the damage too.
		_ = guard(d.bolt.Close)
		return nil, fmt.Errorf("read database %s: %w", path, err)
	}
	return d, nil
}

// prepare creates missing buckets and touches every page that is in use.
func (d *DB) prepare(buckets []string) error {
	var missing []string
	err := d.bolt.View(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			b := tx.Bucket([]byte(name))
			if b == nil {
				missing = append(missing, name)
				continue
			}
			if err := b.ForEach(func(k, v []byte) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(missing) == 0 {
		return err
	}
	return d.bolt.Update(func(tx *bbolt.Tx) error {
		for _, name := range missing {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// View runs fn in a read-only transaction. What fn sees is only valid within it.
func (d *DB) View(fn func(*bbolt.Tx) error) error {
	return d.run(func() error { return d.bolt.View(fn) })
}

// Update runs fn in a transaction that is durable when Update returns nil and
// has not happened when it returns an error.
func (d *DB) Update(fn func(*bbolt.Tx) error) error {
	return d.run(func() error { return d.bolt.Update(fn) })
}

func (d *DB) run(f func() error) error {
	if d.damaged.Load() {
		return fmt.Errorf("use database %s: %w", d.path, ErrDamaged)
	}
	err := guard(f)
	if err == nil || !isDamage(err) {
		return err
	}
	if d.damaged.CompareAndSwap(false, true) {
		d.log.Error("database is damaged: nothing is kept in it any more, restart to begin with an empty one",
			"path", d.path, "err", err)
		if err := os.WriteFile(marker(d.path), nil, 0o600); err != nil {
			d.log.Error("mark damaged database", "path", d.path, "err", err)
		}
	}
	return fmt.Errorf("use database %s: %w", d.path, err)
}

// Close waits for transactions and closes the file.
func (d *DB) Close() error {
	if d.damaged.Load() {
		// A transaction that panicked may hold bbolt's locks for ever, and Close
		// would wait for it. The process is about to end.
		return nil
	}
	return guard(d.bolt.Close)
}

func marker(path string) string { return path + ".damaged" }

func moveAside(path string, log *slog.Logger, cause error) error {
	to := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
	log.Error("database is damaged: moved aside, starting with an empty one", "path", path, "moved", to, "err", cause)
	if err := os.Rename(path, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move damaged database aside: %w", err)
	}
	if err := os.Remove(marker(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("move damaged database aside: %w", err)
	}
	return nil
}

// isDamage tells damage from what a retry or a look at the disk can mend.
func isDamage(err error) bool {
	for _, e := range []error{ErrDamaged, bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// guard turns the panics with which bbolt meets damaged pages, and the faults of
// a truncated file's mapping, into errors.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}
