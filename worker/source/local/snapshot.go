package local

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

const (
	// maxSnapshots bounds how many are kept; the least recently used go first.
	maxSnapshots = 256
	// maxHeader bounds what a damaged file can ask for.
	maxHeader   = 64 << 10
	snapshotExt = ".snapshot"
)

// header says what a snapshot is of. A snapshot's file is the header's length
// (u32, little-endian), the header as JSON and the index, which is checksummed.
// A file that cannot be read means that everything is transferred again.
type header struct {
	Name    string
	Family  string // which client's directory
	Variant string // which part of it
	Tree    cache.Tree
	Content cache.Key
	Used    time.Time
	Size    int64 `json:"-"` // of the file
}

func (h header) id() string { return h.Family + "-" + h.Variant }

// snapshots keeps the lists of earlier transfers.
type snapshots struct {
	dir string

	mu    sync.Mutex // guards heads
	heads map[string]header
}

func openSnapshots(dir string) (*snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &snapshots{dir: dir, heads: map[string]header{}}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		h, _, err := readSnapshot(path, false)
		if err != nil || h.id()+snapshotExt != f.Name() {
			os.Remove(path) // half-written or damaged
			continue
		}
		s.heads[h.id()] = h
	}
	return s, nil
}

func (s *snapshots) path(id string) string { return filepath.Join(s.dir, id+snapshotExt) }

func readSnapshot(path string, withIndex bool) (header, *digest.Index, error) {
	var h header
	f, err := os.Open(path)
	if err != nil {
		return h, nil, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	var n uint32
	if err := binary.Read(r, binary.LittleEndian, &n); err != nil {
		return h, nil, err
	}
	if n > maxHeader {
		return h, nil, errors.New("bad snapshot")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return h, nil, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, nil, err
	}
	if st, err := f.Stat(); err == nil {
		h.Size = st.Size()
	}
	if !withIndex {
		return h, nil, nil
	}
	idx, err := digest.ReadIndex(r)
	return h, idx, err
}

// save writes a snapshot in place of the one before.
func (s *snapshots) save(h header, idx *digest.Index) error {
	head, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("save list of local directory %q: %w", h.Name, err)
	}
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint32(len(head))) // a Buffer takes everything
	b.Write(head)
	if _, err := idx.WriteTo(&b); err != nil {
		return fmt.Errorf("save list of local directory %q: %w", h.Name, err)
	}
	h.Size = int64(b.Len())
	if err := replaceFile(s.path(h.id()), b.Bytes()); err != nil {
		return fmt.Errorf("save list of local directory %q: %w", h.Name, err)
	}
	s.mu.Lock()
	s.heads[h.id()] = h
	over := s.overLocked()
	s.mu.Unlock()
	for _, id := range over {
		if err := s.remove(id); err != nil {
			return err
		}
	}
	return nil
}

func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// overLocked lists what is too much, but never the newest.
func (s *snapshots) overLocked() []string {
	all := s.sortedLocked()
	var over []string
	for _, h := range all[min(len(all), maxSnapshots):] {
		over = append(over, h.id())
	}
	return over
}

// sortedLocked lists all, the last used first.
func (s *snapshots) sortedLocked() []header {
	var all []header
	for _, h := range s.heads {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b header) int {
		if c := b.Used.Compare(a.Used); c != 0 {
			return c
		}
		return strings.Compare(a.id(), b.id())
	})
	return all
}

// touch remembers that a snapshot was used, and the tree that it has now.
func (s *snapshots) touch(h header) error {
	s.mu.Lock()
	old, ok := s.heads[h.id()]
	if ok {
		h.Size = old.Size
		s.heads[h.id()] = h
	}
	s.mu.Unlock()
	if !ok || old.Tree == h.Tree {
		return nil
	}
	_, idx, err := readSnapshot(s.path(h.id()), true)
	if err != nil {
		return nil // gone or damaged: the next transfer makes it again
	}
	return s.save(h, idx)
}

// treeOf returns a tree with the given content, "" if none is known.
func (s *snapshots) treeOf(content cache.Key) cache.Tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.heads {
		if h.Content == content {
			return h.Tree
		}
	}
	return ""
}

// of lists the snapshots of a family, that of variant first and then the last
// used.
func (s *snapshots) of(family, variant string) []header {
	s.mu.Lock()
	all := s.sortedLocked()
	s.mu.Unlock()
	all = slices.DeleteFunc(all, func(h header) bool { return h.Family != family })
	slices.SortStableFunc(all, func(a, b header) int {
		switch {
		case a.Variant == variant:
			return -1
		case b.Variant == variant:
			return 1
		default:
			return 0
		}
	})
	return all
}

func (s *snapshots) remove(id string) error {
	s.mu.Lock()
	delete(s.heads, id)
	s.mu.Unlock()
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove list of local directory: %w", err)
	}
	return nil
}

// Kept is what is remembered of a directory between transfers: the list of its
// files. The files themselves belong to the tree.
type Kept struct {
	ID   string
	Name string // as in local://NAME
	Tree cache.Tree
	Size int64 // bytes on disk, without the tree's
	Used time.Time
}

// Usage lists what is kept, the last used first.
func (s *Source) Usage() []Kept {
	s.snapshots.mu.Lock()
	defer s.snapshots.mu.Unlock()
	var out []Kept
	for _, h := range s.snapshots.sortedLocked() {
		out = append(out, Kept{ID: h.id(), Name: h.Name, Tree: h.Tree, Size: h.Size, Used: h.Used})
	}
	return out
}

// Evict forgets what Usage listed as id: the next transfer is a whole one. It
// is no error if that is forgotten already.
func (s *Source) Evict(id string) error {
	s.snapshots.mu.Lock()
	_, ok := s.snapshots.heads[id]
	s.snapshots.mu.Unlock()
	if !ok {
		return nil
	}
	return s.snapshots.remove(id)
}
