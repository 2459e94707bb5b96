package tree

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Directories below Config.Dir.
const (
	layersDir = "layers" // layers/ID/fs and layers/ID/index: finished layers
	draftsDir = "drafts" // drafts/ID/...: what is being made; becomes layers/ID
	mountsDir = "mounts" // mounts/ID: mount points
	trashDir  = "trash"  // trash/ID: being removed
	flatsDir  = "flats"  // flats/ID: many layers in one directory
	emptyDir  = "empty"  // empty/0 and empty/1: what a mount of no layers shows
	dbFile    = "trees.db"
)

// Names in a layer's directory.
const (
	fsName    = "fs"
	indexName = "index"
	workName  = "work"
)

// newID returns 32 random hexadecimal digits.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// validDir tells whether name is such a name as newID makes, and so stays below
// the directory that it is joined to.
func validDir(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == 16
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Dir}, elem...)...)
}

// remove takes a directory out of sight at once and then removes it. A crash in
// between leaves it in the trash, never half of it in its place.
func (s *Store) remove(path string) error {
	trash := s.path(trashDir, newID())
	if err := os.Rename(path, trash); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove %s: %w", path, err)
	}
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
