package draft

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"sync"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Place makes p the regular file e, which lies at the resolved path from in
// src, with the metadata a: as another name of that inode if nothing about it
// has to change, else as a copy. p must not exist.
func (d *Draft) Place(p string, src View, from string, e digest.Entry, a Attr) error {
	p = path.Clean("/" + p)
	parent, n, err := d.regular(p, e, a)
	if err != nil {
		return err
	}
	linked := false
	if d.links(e, a) {
		linked, err = d.linkFrom(p, src, from)
	}
	if err == nil && !linked {
		err = d.copyFrom(p, src, from, n)
	}
	if err != nil {
		return err
	}
	parent.kids[path.Base(p)] = n
	return nil
}

// regular makes room for the regular file p and the node that will list it.
func (d *Draft) regular(p string, e digest.Entry, a Attr) (parent, n *node, err error) {
	if parent, err = d.vacate("copy", p); err != nil {
		return nil, nil, err
	}
	n = &node{e: entry(unix.S_IFREG, a)}
	n.e.Size, n.e.Hash = e.Size, e.Hash
	return parent, n, nil
}

// links tells whether another name of e's inode will do for a copy of it with a.
func (d *Draft) links(e digest.Entry, a Attr) bool { return !d.o.NoLinks && sameAttr(a, attrOf(e)) }

func sameAttr(a, b Attr) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.ModTime.Equal(b.ModTime) && maps.Equal(a.Xattrs, b.Xattrs)
}

// placement is a file that Copy has listed and that is still to be linked.
type placement struct {
	p    string
	src  View
	from string
	n    *node
}

// placeSoon is Place, but the file is there only after flush if a link will do.
func (c *copier) placeSoon(p, from string, e digest.Entry, a Attr) error {
	if !c.links(e, a) {
		return c.Place(p, c.src, from, e, a)
	}
	p = path.Clean("/" + p)
	parent, n, err := c.regular(p, e, a)
	if err != nil {
		return err
	}
	parent.kids[path.Base(p)] = n
	c.soon = append(c.soon, placement{p: p, src: c.src, from: from, n: n})
	return nil
}

// flush links what placeSoon has listed, on all cores, for that is most of the
// time that a COPY of many files takes.
func (c *copier) flush(ctx context.Context) error {
	const run = 128 // files that a worker takes at a time
	var mu sync.Mutex
	var others []placement // under mu
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for files := range slices.Chunk(c.soon, run) {
		g.Go(func() error {
			for _, f := range files {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				linked, err := c.linkFrom(f.p, f.src, f.from)
				if err != nil {
					return err
				}
				if !linked {
					mu.Lock()
					others = append(others, f)
					mu.Unlock()
				}
			}
			return nil
		})
	}
	err := g.Wait()
	c.soon = nil
	for _, f := range others {
		if err == nil {
			err = c.copyFrom(f.p, f.src, f.from, f.n)
		}
	}
	return err
}

// linkFrom reports false where the file system wants a copy: the inode has too
// many names already, or it is another user's and links to it are protected.
func (d *Draft) linkFrom(p string, src View, from string) (bool, error) {
	host, err := src.HostPath(from)
	if err != nil {
		return false, err
	}
	err = unix.Linkat(unix.AT_FDCWD, host, unix.AT_FDCWD, d.host(p), 0)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EMLINK), errors.Is(err, unix.EPERM), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTSUP):
		return false, nil
	default:
		return false, fmt.Errorf("link %s: %w", p, err)
	}
}

// copyFrom copies with copy_file_range where the kernel can, which shares
// blocks on file systems that do.
func (d *Draft) copyFrom(p string, src View, from string, n *node) error {
	f, err := src.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	var r io.Reader = f
	if n.e.Hash == [32]byte{} { // not known: then the bytes have to pass through here
		r = io.TeeReader(f, h)
	}
	size, err := d.create(p, &n.e, r)
	if err != nil {
		return err
	}
	if n.e.Hash == [32]byte{} {
		n.e.Hash, n.e.Size = [32]byte(h.Sum(nil)), size
	}
	if size != n.e.Size {
		return fmt.Errorf("copy %s: read %d bytes of a file of %d: its layer is damaged", from, size, n.e.Size)
	}
	return nil
}
