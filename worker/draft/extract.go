package draft

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"golang.org/x/sys/unix"
)

// ExtractOptions say how an archive is unpacked.
type ExtractOptions struct {
	// Owner of all that comes out of the archive; nil: as the archive has it.
	Owner *Owner
	// Now is the time of directories that the archive leaves out.
	Now time.Time
}

// Extract unpacks the tar stream r into the existing directory dest, as ADD
// does: links, those that exist too, are resolved as if dest were the root;
// what is there gives way to what comes, but for directories, which are merged.
// Names that lead out of dest are an error.
func (d *Draft) Extract(ctx context.Context, r io.Reader, dest string, o ExtractOptions) error {
	dest, err := d.Resolve(dest, true)
	if err != nil {
		return err
	}
	x := &extractor{Draft: d, dest: dest, o: o}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := x.entry(h, &cancelReader{ctx: ctx, r: tr}); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

type extractor struct {
	*Draft
	dest string
	o    ExtractOptions
}

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if name == "/" { // the destination stays what it is
		return nil
	}
	a, err := x.attr(h)
	if err != nil {
		return err
	}
	dir, err := x.resolveIn(x.dest, path.Dir(name), true)
	if err != nil {
		return err
	}
	if err := x.MkdirAll(dir, Attr{Mode: 0o755, ModTime: x.o.Now}); err != nil {
		return err
	}
	target := join(dir, path.Base(name))
	if merged, err := x.makeRoom(target, h, a); merged || err != nil {
		return err
	}
	return x.make(target, h, r, a)
}

// inside returns name as a clean path from the archive's root.
func inside(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", errors.New("name has a zero byte")
	}
	rel := path.Clean(strings.TrimLeft(name, "/"))
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", errors.New("name leads out of the archive")
	}
	return path.Clean("/" + rel), nil
}

// makeRoom removes what is at target; a directory that meets a directory is
// merged instead.
func (x *extractor) makeRoom(target string, h *tar.Header, a Attr) (merged bool, err error) {
	have, err := x.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	isDir := have.Mode&typeMask == dirMode
	switch {
	case isDir && h.Typeflag == tar.TypeDir:
		return true, x.SetAttr(target, a)
	case isDir || h.Typeflag == tar.TypeDir:
		return false, x.Remove(target)
	default:
		return false, x.overwrite(target)
	}
}

func (x *extractor) make(target string, h *tar.Header, r io.Reader, a Attr) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return x.WriteFile(target, r, a)
	case tar.TypeDir:
		return x.Mkdir(target, a)
	case tar.TypeSymlink:
		return x.Symlink(h.Linkname, target, a)
	case tar.TypeLink:
		return x.link(target, h)
	case tar.TypeFifo:
		return x.Mknod(target, unix.S_IFIFO, 0, 0, a)
	case tar.TypeChar, tar.TypeBlock:
		typ := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			typ = unix.S_IFBLK
		}
		err := x.Mknod(target, typ, uint32(h.Devmajor), uint32(h.Devminor), a)
		if errors.Is(err, syscall.EPERM) && (x.Draft.o.IgnoreOwner || x.Draft.o.UserXattr) { // no devices in a user namespace
			return nil
		}
		return err
	default:
		return fmt.Errorf("archive entry type %q is unknown", h.Typeflag)
	}
}

// link makes a hard link to a file of the archive or one that was there.
func (x *extractor) link(target string, h *tar.Header) error {
	name, err := inside(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	old, err := x.resolveIn(x.dest, name, false)
	if err != nil {
		return err
	}
	e, err := x.Lstat(old)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
	}
	if n, _ := x.find(old); n == nil && e.Mode&typeMask == unix.S_IFREG {
		if err := x.copyUpFile(old, e); err != nil {
			return err
		}
	}
	return x.Link(old, target)
}

// copyUpFile makes the layer hold the regular file p of the base.
func (d *Draft) copyUpFile(p string, e digest.Entry) error {
	if err := d.overwrite(p); err != nil {
		return err
	}
	return d.Place(p, d.base, p, e, attrOf(e))
}

func (x *extractor) attr(h *tar.Header) (Attr, error) {
	a := Attr{Mode: uint32(h.Mode) & 0o7777, ModTime: h.ModTime}
	if s := a.ModTime.Unix(); s < 0 || s > math.MaxUint32 { // beyond what every file system can keep
		a.ModTime = time.Unix(0, 0)
	}
	switch {
	case x.o.Owner != nil:
		a.UID, a.GID = x.o.Owner.UID, x.o.Owner.GID
	case h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32:
		return a, fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	default:
		a.UID, a.GID = uint32(h.Uid), uint32(h.Gid)
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		// Others belong to the layer's own format, so that an archive could forge
		// whiteouts and owners with them, or to this host.
		if !ok || !digest.KeepXattr(name) {
			continue
		}
		if a.Xattrs == nil {
			a.Xattrs = map[string]string{}
		}
		a.Xattrs[name] = v
	}
	return a, nil
}

// cancelReader ends a long copy when its context does.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
