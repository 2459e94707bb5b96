package tree

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"github.com/buildd/buildd/cache/blob"
)

// Config says where trees are kept and how.
type Config struct {
	// Dir must lie on a file system that overlay takes as an upper directory.
	Dir string
	// Blobs is where layers come from and packed layers go.
	Blobs *blob.Store
	// Rootless makes overlay use user.overlay.* attributes (mount option
	// userxattr), which a user namespace may set.
	Rootless bool
	// IgnoreOwner keeps owners that cannot be set in digest.OwnerXattr.
	IgnoreOwner bool
	// Spare is how long a new tree is safe from Sweep until a lease takes it.
	// Default: 5 minutes, as some callers lease only what a whole step gave.
	Spare time.Duration
	// Unpacks is how many layers are unpacked at a time. Default: one per CPU.
	Unpacks int
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

const defaultSpare = 5 * time.Minute

func (c Config) applyDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("no directory is configured")
	}
	if c.Blobs == nil {
		return c, errors.New("no blob store is configured")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("find directory %s: %w", c.Dir, err)
	}
	c.Dir = dir
	c.Spare = cmp.Or(c.Spare, defaultSpare)
	c.Unpacks = cmp.Or(c.Unpacks, runtime.GOMAXPROCS(0))
	c.Log = cmp.Or(c.Log, slog.Default())
	return c, nil
}
