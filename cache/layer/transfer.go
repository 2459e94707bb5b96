package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// Send writes a layer so that Receive makes the very same of it. A tar cannot be
// that: the one of an image layer has no nanoseconds, no sockets and no files
// called ".wh.", and parts of a layer would change on their way between machines.
// What is written is the layer's index, then the bytes of its regular files in
// the order of the index, of a hard link once. Files with the bytes of one that is
// in bases are left out. A file that is not as the index says is an error.
func Send(ctx context.Context, l digest.Layer, w io.Writer, bases ...digest.Layer) error {
	root, err := unix.Open(l.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("send layer: %w", &os.PathError{Op: "open", Path: l.Dir, Err: err})
	}
	defer unix.Close(root)
	bw := bufio.NewWriterSize(w, 256<<10)
	if _, err := l.Index.WriteTo(bw); err != nil {
		return fmt.Errorf("send layer: %w", err)
	}
	known := knownFiles(l.Index, bases)
	wanted := func(yield func(digest.Entry) bool) {
		for e := range filled(l.Index) {
			if _, ok := known[idOf(e)]; !ok && !yield(e) {
				return
			}
		}
	}
	files := readAhead(ctx, root, wanted)
	defer files.close()
	for e := range wanted {
		if err := files.copy(bw, e); err != nil {
			return fmt.Errorf("send layer: %s: %w", quote(e.Path), err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("send layer: %w", err)
	}
	return nil
}

// ReceiveOptions say what a layer is received for.
type ReceiveOptions struct {
	// UserXattr and IgnoreOwner are those of UnpackOptions.
	UserXattr, IgnoreOwner bool
	// Accept sees the index before anything is written, and ends it with an
	// error if the layer is not what was asked for, or too big. nil accepts all.
	Accept func(*digest.Index) error
	// Bases are those that Send was called with: layers that are here and there.
	// They must lie on the file system that is received to.
	Bases []digest.Layer
}

// Receive writes what Send has sent into an empty directory and returns its
// index. Every file is checked against the index, which a hostile sender makes:
// it can name no path outside dir, since every path leads through directories
// that the layer itself has. r must end where the layer does.
func Receive(ctx context.Context, r io.Reader, dir string, o ReceiveOptions) (*digest.Index, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	x, err := digest.ReadIndex(br)
	if err != nil {
		return nil, fmt.Errorf("receive layer: %w", err)
	}
	if o.Accept != nil {
		if err := o.Accept(x); err != nil {
			return nil, fmt.Errorf("receive layer: %w", err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("receive layer: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	rc := &receiver{files: newFiles(ctx), root: root, dirFD: -1, r: br, o: o, known: knownFiles(x, o.Bases)}
	defer rc.close()
	rc.keepOwner = o.IgnoreOwner
	if err := rc.all(x); err != nil {
		return nil, fmt.Errorf("receive layer: %w", err)
	}
	switch _, err := br.ReadByte(); {
	case err == nil:
		return nil, errors.New("receive layer: there is more than the index lists")
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("receive layer: %w", err)
	}
	return x, nil
}

// receiver creates what an index lists.
type receiver struct {
	*files
	r    io.Reader
	o    ReceiveOptions
	root int
	// known are files whose bytes are here.
	known map[fileID]knownFile

	dir   string // the directory that is open
	dirFD int    // -1 if none is
}

func (r *receiver) close() {
	if r.dirFD >= 0 {
		unix.Close(r.dirFD)
	}
	unix.Close(r.root)
}

func (r *receiver) all(x *digest.Index) error {
	var dirs []digest.Entry
	for e := range x.All() {
		if err := checkReceived(e); err != nil {
			return fmt.Errorf("%s: %w", quote(e.Path), err)
		}
		if e.IsDir() {
			dirs = append(dirs, e)
		}
		if err := r.create(e); err != nil {
			return fmt.Errorf("%s: %w", quote(e.Path), err)
		}
	}
	// Nothing is created in them any more, so their times stay; and whoever may
	// not enter a directory has no business in it now.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := r.settle(dirs[i]); err != nil {
			return fmt.Errorf("directory %s: %w", quote(dirs[i].Path), err)
		}
	}
	return nil
}

// checkReceived refuses what a scan of a directory would never have found.
func checkReceived(e digest.Entry) error {
	const nobody = 1<<32 - 1 // (uid_t)-1: chown takes it for "leave it"
	if e.UID == nobody || e.GID == nobody {
		return fmt.Errorf("owner %d:%d", e.UID, e.GID)
	}
	if e.Major > maxMajor || e.Minor > maxMinor {
		return fmt.Errorf("device %d,%d: want up to %d,%d", e.Major, e.Minor, maxMajor, maxMinor)
	}
	if y := e.ModTime.Year(); y < 1678 || y > 2261 { // what int64 nanoseconds hold
		return fmt.Errorf("time %s is out of range", e.ModTime)
	}
	if e.IsDevice() && e.Major == 0 && e.Minor == 0 && e.Mode&unix.S_IFMT == unix.S_IFCHR {
		return fmt.Errorf("device 0,0 is a whiteout on disk")
	}
	for k := range e.Xattrs {
		if !digest.KeepXattr(k) {
			return fmt.Errorf("extended attribute %q belongs to no layer", k)
		}
	}
	return nil
}

func (r *receiver) create(e digest.Entry) error {
	if e.Path == "" {
		return nil
	}
	dir, base := split(e.Path)
	fd, err := r.in(dir)
	if err != nil {
		return err
	}
	was := e
	switch {
	case e.Hardlink != "":
		if err := unix.Linkat(r.root, e.Hardlink, fd, base, 0); err != nil {
			return fmt.Errorf("link to %s: %w", quote(e.Hardlink), err)
		}
		return nil
	case e.IsDir():
		if err := unix.Mkdirat(fd, base, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
		return nil
	case e.IsRegular():
		err = r.file(fd, base, &e)
		if err == nil && e.Hash != was.Hash {
			err = fmt.Errorf("its bytes have SHA-256 %x, the index says %x", e.Hash, was.Hash)
		}
	default:
		err = r.special(fd, base, &e)
	}
	if err != nil {
		return err
	}
	return sameXattrs(was, e)
}

// file creates a regular file of what was sent, or of a file that is here.
func (r *receiver) file(dir int, name string, e *digest.Entry) error {
	k, ok := r.known[idOf(*e)]
	if !ok || e.Size == 0 {
		return r.regular(dir, name, e, r.r, true)
	}
	if linked, err := k.link(dir, name, *e); linked || err != nil {
		return err
	}
	f, err := k.open()
	if err != nil {
		return fmt.Errorf("open %s of a layer that is here: %w", quote(k.path), err)
	}
	defer f.Close()
	return r.regular(dir, name, e, f, true)
}

// sameXattrs tells which attribute of a file could not be set: an index with
// attributes that are not on the disk would not be one of these files.
func sameXattrs(want, got digest.Entry) error {
	if maps.Equal(want.Xattrs, got.Xattrs) {
		return nil
	}
	for k := range want.Xattrs {
		if _, ok := got.Xattrs[k]; !ok {
			return fmt.Errorf("extended attribute %q cannot be kept here", k)
		}
	}
	return nil
}

// in returns a descriptor of a directory, which is good until the next call.
func (r *receiver) in(dir string) (int, error) {
	if r.dirFD >= 0 && r.dir == dir {
		return r.dirFD, nil
	}
	fd, err := openBeneath(r.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("open directory: %w", err)
	}
	if r.dirFD >= 0 {
		unix.Close(r.dirFD)
	}
	r.dir, r.dirFD = dir, fd
	return fd, nil
}

func (r *receiver) settle(e digest.Entry) error {
	fd, err := openBeneath(r.root, e.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if e.Opaque {
		name := digest.OpaqueXattr(r.o.UserXattr)
		if err := unix.Fsetxattr(fd, name, []byte("y"), 0); err != nil {
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	was := e
	if err := r.describe(fd, &e); err != nil {
		return err
	}
	return sameXattrs(was, e)
}
