package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/internal/boltdb"
)

var bucket = []byte("images")

// Image is a name and what it stands for.
type Image struct {
	// Name is normalised: "docker.io/library/alpine:latest".
	Name string `json:"-"`
	// Target is a manifest or an index.
	Target  ocispecs.Descriptor `json:"target"`
	Created time.Time           `json:"created"`
	Updated time.Time           `json:"updated"`
}

// Config says where and how names are kept.
type Config struct {
	// Path is the database's file.
	Path string
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// Store keeps names. It is safe for concurrent use, and a change is durable when
// the method that made it returns.
type Store struct {
	db *boltdb.DB
}

// Open opens the store at c.Path, which no other process may use.
func Open(c Config) (*Store, error) {
	db, err := boltdb.Open(filepath.Clean(c.Path), cmp.Or(c.Log, slog.Default()), string(bucket))
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return &Store{db: db}, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.db.Close() }

// Normalize returns the full form of an image name as docker reads it: the
// default domain, "library/" and the tag "latest" are put where they are left
// out; of a name with both tag and digest the tag is dropped.
func Normalize(name string) (string, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return "", fmt.Errorf("parse image name %q: %w", name, err)
	}
	return ref.String(), nil
}

// Get returns what a name stands for, or cache.ErrNotFound.
func (s *Store) Get(ctx context.Context, name string) (ocispecs.Descriptor, error) {
	full, err := Normalize(name)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	var img Image
	err = s.db.View(func(tx *bbolt.Tx) (err error) {
		img, err = get(tx, full)
		return err
	})
	return img.Target, err
}

// Put makes a name stand for target. A name with a digest can only stand for
// that digest.
func (s *Store) Put(ctx context.Context, name string, target ocispecs.Descriptor) error {
	full, err := Normalize(name)
	if err != nil {
		return err
	}
	if err := target.Digest.Validate(); err != nil {
		return fmt.Errorf("name image %s: digest %q: %w", full, target.Digest, err)
	}
	if ref, err := reference.Parse(full); err == nil {
		if d, ok := ref.(reference.Digested); ok && d.Digest() != target.Digest {
			return fmt.Errorf("name image %s: its digest is %s", full, target.Digest)
		}
	}
	now := time.Now().UTC()
	return s.db.Update(func(tx *bbolt.Tx) error {
		img := Image{Target: target, Created: now, Updated: now}
		if old, err := get(tx, full); err == nil && !old.Created.IsZero() {
			img.Created = old.Created
		}
		b, err := json.Marshal(img)
		if err != nil {
			return fmt.Errorf("name image %s: %w", full, err)
		}
		return tx.Bucket(bucket).Put([]byte(full), b)
	})
}

// Delete removes a name, or returns cache.ErrNotFound.
func (s *Store) Delete(ctx context.Context, name string) error {
	full, err := Normalize(name)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if b.Get([]byte(full)) == nil {
			return notFound(full)
		}
		return b.Delete([]byte(full))
	})
}

// List returns all images, sorted by name.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	var out []Image
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			img, err := decode(string(k), v)
			if err != nil {
				return err
			}
			out = append(out, img)
			return nil
		})
	})
	return out, err
}

func get(tx *bbolt.Tx, name string) (Image, error) {
	b := tx.Bucket(bucket).Get([]byte(name))
	if b == nil {
		return Image{}, notFound(name)
	}
	return decode(name, b)
}

func decode(name string, b []byte) (Image, error) {
	img := Image{Name: name}
	if err := json.Unmarshal(b, &img); err != nil {
		return img, fmt.Errorf("read image %s: %w", name, err)
	}
	return img, nil
}

func notFound(name string) error { return fmt.Errorf("image %s: %w", name, cache.ErrNotFound) }
