package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// unchanged tells whether the list is, file by file, that of the newest base.
func (t *transfer) unchanged() bool {
	return !t.req.metadataOnly && t.bases.sameList(t.list)
}

// index lists what was received.
func (t *transfer) index() (*digest.Index, error) {
	if t.unchanged() {
		return t.bases.all[0].index, nil
	}
	var b digest.Builder
	for i := range t.list {
		it := &t.list[i]
		if it.file != nil {
			it.entry.Hash, it.entry.Size = it.file.entry.Hash, it.file.entry.Size
		}
	}
	for _, it := range t.list {
		e := it.entry
		if e.Hardlink != "" {
			to := t.list[t.byPath[e.Hardlink]].entry
			e.Hash, e.Size = to.Hash, to.Size
		}
		b.Add(e)
	}
	if t.req.metadataOnly {
		b.Add(t.metadataEntry())
	}
	return b.Index()
}

func (t *transfer) metadataEntry() digest.Entry {
	return digest.Entry{
		Path: metadataName, Mode: unix.S_IFREG | 0o644, Size: int64(len(t.metadata)),
		ModTime: time.Unix(0, 0).UTC(), Hash: sha256.Sum256(t.metadata),
	}
}

// commit gives everything its place and makes the tree.
func (t *transfer) commit(ctx context.Context, idx *digest.Index) (cache.Tree, error) {
	d, err := t.stage.dir(ctx)
	if err != nil {
		return "", err
	}
	if err := t.place(ctx, d.Dir); err != nil {
		return "", err
	}
	out, err := d.Commit(ctx, idx)
	if err != nil {
		return "", err
	}
	t.stage.draft = nil
	return out, nil
}

// discard removes what was received unless commit took it.
func (t *transfer) discard() {
	if t.stage.draft != nil {
		t.stage.draft.Discard()
		t.stage.draft = nil
	}
}

// place makes directories, then what is in them and has not come there already,
// then hard links, and sets the directories' times last.
func (t *transfer) place(ctx context.Context, dir string) error {
	for _, it := range t.list {
		if it.entry.IsDir() {
			if err := t.stage.mkdir(t.stage.draft, it.entry.Path); err != nil {
				return fmt.Errorf("make local directory: %w", err)
			}
		}
	}
	if t.req.metadataOnly {
		if err := t.writeMetadata(filepath.Join(dir, metadataName)); err != nil {
			return err
		}
	}
	for _, linked := range []bool{false, true} {
		if err := t.placeFiles(ctx, dir, linked); err != nil {
			return err
		}
	}
	for _, it := range slices.Backward(t.list) {
		if it.entry.IsDir() {
			if err := setAttrs(t.c, -1, filepath.Join(dir, it.entry.Path), it.entry); err != nil {
				return fmt.Errorf("make %q: %w", it.entry.Path, err)
			}
		}
	}
	return nil
}

// placeFiles places all that is no directory, on all cores: either hard links
// within the list or everything else.
func (t *transfer) placeFiles(ctx context.Context, dir string, linked bool) error {
	const run = 256 // files that a worker takes at a time
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for items := range slices.Chunk(t.list, run) {
		g.Go(func() error {
			for _, it := range items {
				if it.entry.IsDir() || it.file != nil || (it.entry.Hardlink != "") != linked {
					continue
				}
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				if err := t.placeFile(dir, it); err != nil {
					return fmt.Errorf("make %q: %w", it.entry.Path, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (t *transfer) placeFile(dir string, it item) error {
	path := filepath.Join(dir, it.entry.Path)
	switch e := it.entry; {
	case e.Hardlink != "":
		return os.Link(filepath.Join(dir, e.Hardlink), path)
	case it.copied:
		return t.copyFile(it.from, path, e)
	case e.IsRegular():
		err := os.Link(it.from, path)
		if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) {
			return t.copyFile(it.from, path, e)
		}
		return err
	case e.IsSymlink():
		if err := os.Symlink(e.Link, path); err != nil {
			return err
		}
		return setAttrs(t.c, -1, path, e)
	case e.Mode&unix.S_IFMT == unix.S_IFIFO:
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return err
		}
		return setAttrs(t.c, -1, path, e)
	default:
		return fmt.Errorf("file type %o", e.Mode&unix.S_IFMT)
	}
}

// copyFile copies where a hard link cannot be had: a file takes 65,000 links on
// ext4.
func (t *transfer) copyFile(from, to string, e digest.Entry) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := setAttrs(t.c, int(out.Fd()), "", e); err != nil {
		return err
	}
	return out.Close()
}

func (t *transfer) writeMetadata(path string) error {
	if err := os.WriteFile(path, t.metadata, 0o644); err != nil {
		return fmt.Errorf("write list of files: %w", err)
	}
	return setAttrs(t.c, -1, path, t.metadataEntry())
}
