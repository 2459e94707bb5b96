package mount

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
)

// ErrInUse is returned for a cache directory that a step has mounted.
var ErrInUse = errors.New("cache mount is in use")

// Sharing says who may have a cache mount at the same time.
type Sharing int

const (
	Shared  Sharing = iota // any number of steps
	Private                // one step; another gets a directory of its own
	Locked                 // one step; another waits
)

// Caches holds the directories of cache mounts. Cache mounts with the same ID
// and base share their directories; there is more than one where private mounts
// were used side by side. It is safe for concurrent use.
//
// On disk every directory is dir/<random>/{meta.json,files}. The ID that a
// client gave is only written in meta.json.
type Caches struct {
	dir string

	mu      sync.Mutex // guards slots, the fields of each slot, and changed
	slots   map[string]*slot
	changed chan struct{} // closed and replaced whenever a slot comes free
}

// slot is one directory.
type slot struct {
	meta
	name     string
	users    int
	alone    bool // its user shares with nobody
	creating bool
	size     int64 // -1 until measured
}

// meta is what meta.json holds.
type meta struct {
	Key         cache.Key `json:"key"`
	ID          string    `json:"id"`
	Description string    `json:"description"`
	Created     time.Time `json:"created"`
	LastUsed    time.Time `json:"lastUsed"`
	UseCount    int       `json:"useCount"`
}

// Usage describes one directory.
type Usage struct {
	// Name names the directory for Remove.
	Name string
	// ID is the cache mount's, as the client gave it.
	ID          string
	Description string
	Created     time.Time
	LastUsed    time.Time
	UseCount    int
	// Size in bytes on disk.
	Size  int64
	InUse bool
}

// OpenCaches opens the directory dir and removes what a crash left unfinished.
func OpenCaches(dir string) (*Caches, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cache mounts: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open cache mounts: %w", err)
	}
	c := &Caches{dir: dir, slots: map[string]*slot{}, changed: make(chan struct{})}
	for _, e := range entries {
		s := &slot{name: e.Name(), size: -1}
		b, err := os.ReadFile(filepath.Join(dir, s.name, "meta.json"))
		if err == nil {
			err = json.Unmarshal(b, &s.meta)
		}
		if err == nil {
			c.slots[s.name] = s
			continue
		}
		// meta.json is written last.
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("remove unfinished cache mount %s: %w", e.Name(), err)
		}
	}
	return c, nil
}

// Request asks for a cache mount.
type Request struct {
	ID      string
	Sharing Sharing
	// Base names what the directory starts with; the zero Key is
	// nothing. It is part of the cache mount's identity.
	Base cache.Key
	// Fill writes that into the empty directory.
	Fill        func(ctx context.Context, dir string) error
	Description string
}

// Key is the identity of the cache mount that r asks for.
func (r Request) Key() cache.Key { return cache.Hash("cache mount", []byte(r.ID), r.Base[:]) }

// Cache is a cache mount in use.
type Cache struct {
	// Dir is the directory to mount.
	Dir string

	c    *Caches
	s    *slot
	once sync.Once
}

// Acquire returns a directory for r, waiting for it if it is locked.
func (c *Caches) Acquire(ctx context.Context, r Request) (*Cache, error) {
	key := r.Key()
	for {
		c.mu.Lock()
		s, wait := c.chooseLocked(key, r.Sharing)
		changed := c.changed
		if s != nil {
			s.users++
			s.alone = r.Sharing != Shared
		} else if !wait {
			s = &slot{
				meta: meta{Key: key, ID: r.ID, Description: r.Description, Created: time.Now().UTC()},
				name: randomName(), users: 1, alone: r.Sharing != Shared, creating: true, size: -1,
			}
			c.slots[s.name] = s
		}
		c.mu.Unlock()
		if s != nil {
			return c.use(ctx, s, r)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for cache mount %q: %w", r.ID, context.Cause(ctx))
		}
	}
}

// chooseLocked returns a directory that can be had now, or whether to wait for
// one; neither means a new one.
func (c *Caches) chooseLocked(key cache.Key, sharing Sharing) (*slot, bool) {
	var of []*slot
	for _, s := range c.slots {
		if s.Key == key {
			of = append(of, s)
		}
	}
	// The oldest first, so that what has been gathered keeps being used.
	slices.SortFunc(of, func(a, b *slot) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.name, b.name))
	})
	wait := false
	for _, s := range of {
		switch {
		case s.creating:
			wait = wait || sharing == Locked || sharing == Shared && !s.alone
		case s.users == 0, sharing == Shared && !s.alone:
			return s, false
		default:
			wait = wait || sharing == Locked
		}
	}
	return nil, wait
}

func randomName() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// use makes the directory if it is new.
func (c *Caches) use(ctx context.Context, s *slot, r Request) (*Cache, error) {
	out := &Cache{Dir: filepath.Join(c.dir, s.name, "files"), c: c, s: s}
	var err error
	if s.creating {
		err = c.create(ctx, s, out.Dir, r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.slots, s.name)
		c.wakeLocked()
		return nil, fmt.Errorf("create cache mount %q: %w", r.ID, err)
	}
	if s.creating {
		s.creating = false
		c.wakeLocked()
	}
	s.LastUsed = time.Now().UTC()
	s.UseCount++
	s.size = -1
	return out, nil
}

func (c *Caches) create(ctx context.Context, s *slot, files string, r Request) error {
	dir := filepath.Join(c.dir, s.name)
	// Others may pass, for a mounted part keeps the path's permissions out of play.
	err := os.MkdirAll(files, 0o755)
	if err == nil && r.Fill != nil {
		err = r.Fill(ctx, files)
	}
	if err == nil {
		err = writeMeta(dir, s.meta)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

func writeMeta(dir string, m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "meta.json."+randomName()) // shared mounts may be released at once
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "meta.json"))
}

func (c *Caches) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Release gives the directory back. What is in it stays.
func (u *Cache) Release() error {
	var err error
	u.once.Do(func() {
		u.c.mu.Lock()
		u.s.LastUsed = time.Now().UTC()
		u.s.size = -1
		m := u.s.meta
		u.c.mu.Unlock()
		err = writeMeta(filepath.Join(u.c.dir, u.s.name), m)
		u.c.mu.Lock()
		defer u.c.mu.Unlock()
		u.s.users--
		if u.s.users == 0 {
			u.s.alone = false
		}
		u.c.wakeLocked()
	})
	return err
}

// Usage lists all directories, the longest unused first.
func (c *Caches) Usage(ctx context.Context) ([]Usage, error) {
	c.mu.Lock()
	out := make([]Usage, 0, len(c.slots))
	for _, s := range c.slots {
		if s.creating {
			continue
		}
		out = append(out, Usage{
			Name: s.name, ID: s.ID, Description: s.Description, Created: s.Created, LastUsed: s.LastUsed,
			UseCount: s.UseCount, Size: s.size, InUse: s.users > 0,
		})
	}
	c.mu.Unlock()
	for i := range out {
		if out[i].Size >= 0 {
			continue
		}
		size, err := diskUsage(ctx, filepath.Join(c.dir, out[i].Name))
		if err != nil {
			return nil, err
		}
		out[i].Size = size
		c.mu.Lock()
		if s := c.slots[out[i].Name]; s != nil && s.users == 0 && s.LastUsed.Equal(out[i].LastUsed) {
			s.size = size
		}
		c.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Usage) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

// Remove deletes a directory. It returns ErrInUse for one that is mounted and
// cache.ErrNotFound for one that is not there.
func (c *Caches) Remove(_ context.Context, name string) error {
	c.mu.Lock()
	s := c.slots[name]
	switch {
	case s == nil:
		c.mu.Unlock()
		return fmt.Errorf("remove cache mount %q: %w", name, cache.ErrNotFound)
	case s.users > 0:
		c.mu.Unlock()
		return fmt.Errorf("remove cache mount %q: %w", s.ID, ErrInUse)
	}
	delete(c.slots, name)
	c.mu.Unlock()
	dir := filepath.Join(c.dir, name)
	// Without meta.json the rest goes at the next start if this is cut short.
	if err := os.Remove(filepath.Join(dir, "meta.json")); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove cache mount %q: %w", s.ID, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove cache mount %q: %w", s.ID, err)
	}
	return nil
}
