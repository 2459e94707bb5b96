// Package onefile makes trees that hold a single file, which is what URLs and
// blobs are to a build.
package onefile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/buildd/buildd/cache"
	cdigest "github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	defaultPerm    = 0o600
	defaultName    = "download"
	defaultMaxSize = 64 << 30
	maxName        = 255
	reportEvery    = 100 * time.Millisecond
)

// ErrTooLarge is returned, wrapped, for a file above Maker's MaxSize.
var ErrTooLarge = errors.New("file is too large")

// File is what the file is to be.
type File struct {
	// Name has no slash; "" leaves it to the source.
	Name     string
	Perm     uint32 // permission bits; 0 is 0600
	UID, GID uint32
	ModTime  time.Time // the zero time is the epoch
}

// Set takes an attribute of a source op if it is one of File's
// (pb.AttrHTTPFilename, Perm, UID, GID).
func (f *File) Set(k, v string) (ok bool, err error) {
	switch k {
	case pb.AttrHTTPFilename:
		f.Name = SafeName(v)
	case pb.AttrHTTPPerm:
		if f.Perm, err = parseUint(v); err == nil && f.Perm > 0o7777 {
			err = errors.New("want at most 07777")
		}
	case pb.AttrHTTPUID:
		f.UID, err = parseUint(v)
	case pb.AttrHTTPGID:
		f.GID, err = parseUint(v)
	default:
		return false, nil
	}
	return true, err
}

func parseUint(v string) (uint32, error) {
	n, err := strconv.ParseUint(v, 0, 32) // 0644 is octal
	return uint32(n), err
}

// SafeName makes a name that stays in its directory.
func SafeName(s string) string {
	s = filepath.Base(strings.TrimSpace(s))
	if s == "." || s == ".." || s == "/" || len(s) > maxName || strings.ContainsFunc(s, unicode.IsControl) {
		return defaultName
	}
	return s
}

// Trees is what a Maker needs of tree.Store.
type Trees interface {
	NewDraft(ctx context.Context, parent cache.Tree) (*tree.Draft, error)
}

// Maker makes trees.
type Maker struct {
	Trees Trees
	// MaxSize is the largest file that is taken, in bytes; 0 is 64 GiB.
	MaxSize int64
	// IgnoreOwner keeps owners that cannot be set in digest.OwnerXattr.
	IgnoreOwner bool
}

// Limit is MaxSize or its default.
func (m Maker) Limit() int64 {
	if m.MaxSize == 0 {
		return defaultMaxSize
	}
	return m.MaxSize
}

// Make makes a tree of f with the bytes that copyTo writes, and returns their
// digest, too. progress may be nil. After an error nothing is left.
func (m Maker) Make(ctx context.Context, f File, copyTo func(io.Writer) error, progress func(solver.Status)) (cache.Tree, digest.Digest, error) {
	d, err := m.Trees.NewDraft(ctx, "")
	if err != nil {
		return "", "", err
	}
	if f.Perm == 0 {
		f.Perm = defaultPerm
	}
	if f.ModTime.IsZero() {
		f.ModTime = time.Unix(0, 0).UTC()
	}
	e := cdigest.Entry{Path: f.Name, Mode: unix.S_IFREG | f.Perm, UID: f.UID, GID: f.GID, ModTime: f.ModTime}
	t, err := func() (cache.Tree, error) {
		if err := m.write(ctx, d.Dir, &e, copyTo, progress); err != nil {
			return "", err
		}
		var b cdigest.Builder
		b.Add(e)
		idx, err := b.Index()
		if err != nil {
			return "", err
		}
		return d.Commit(ctx, idx)
	}()
	if err != nil {
		d.Discard()
		return "", "", err
	}
	return t, digest.NewDigestFromBytes(digest.SHA256, e.Hash[:]), nil
}

// write fills in e's size and hash.
func (m Maker) write(ctx context.Context, dir string, e *cdigest.Entry, copyTo func(io.Writer) error, progress func(solver.Status)) error {
	out, err := os.OpenFile(filepath.Join(dir, e.Path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha256.New()
	count := &meter{ctx: ctx, limit: m.Limit(), report: progress, status: solver.Status{ID: "downloading " + e.Path, Started: time.Now()}}
	err = copyTo(io.MultiWriter(count, out, h))
	count.finish()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	e.Size = count.status.Current
	h.Sum(e.Hash[:0])
	if err := m.setAttrs(out, *e); err != nil {
		return err
	}
	return out.Close()
}

func (m Maker) setAttrs(f *os.File, e cdigest.Entry) error {
	err := f.Chown(int(e.UID), int(e.GID))
	if err != nil && m.IgnoreOwner {
		err = unix.Fsetxattr(int(f.Fd()), cdigest.OwnerXattr, []byte(cdigest.FormatOwner(e.UID, e.GID)), 0)
	}
	if err != nil {
		return fmt.Errorf("set owner %d:%d: %w", e.UID, e.GID, err)
	}
	if err := unix.Fchmod(int(f.Fd()), e.Mode&0o7777); err != nil {
		return fmt.Errorf("set mode %o: %w", e.Mode&0o7777, err)
	}
	return os.Chtimes(f.Name(), e.ModTime, e.ModTime)
}

// meter counts what is written, reports it, and ends what is too large or
// unwanted.
type meter struct {
	ctx    context.Context // of the one file that it is made for
	limit  int64
	report func(solver.Status)
	status solver.Status
	last   time.Time
}

func (m *meter) Write(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		return 0, context.Cause(m.ctx)
	}
	m.status.Current += int64(len(p))
	if m.status.Current > m.limit {
		return 0, fmt.Errorf("%w: the limit is %d bytes", ErrTooLarge, m.limit)
	}
	if m.report != nil && time.Since(m.last) >= reportEvery {
		m.last = time.Now()
		m.report(m.status)
	}
	return len(p), nil
}

func (m *meter) finish() {
	if m.report != nil {
		m.status.Completed = time.Now()
		m.report(m.status)
	}
}
