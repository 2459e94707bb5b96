package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

var epoch = time.Unix(0, 0)

// UnpackOptions say what a layer is unpacked for.
type UnpackOptions struct {
	// UserXattr writes user.overlay.opaque, not trusted.overlay.opaque: the layer
	// will be mounted with userxattr.
	UserXattr bool
	// IgnoreOwner keeps an owner that cannot be set in digest.OwnerXattr, and
	// leaves device nodes out where they may not be created.
	IgnoreOwner bool
	// Lower is what lies below: parent directories that the tar leaves out are
	// made like those there, the target of a hard link that is not in the tar is
	// copied up from there, and whiteouts of what is not there are dropped (a
	// mount would list them). nil is not known.
	Lower *digest.View
	// WaitLower, if not nil, returns Lower. It is called when Lower is needed,
	// which is after all files are written but for a hard link into it, so that
	// the layers of an image can be unpacked side by side.
	WaitLower func(context.Context) (*digest.View, error)
}

// Unpack writes the uncompressed tar of an OCI layer into an empty directory, in
// overlay upper format, and returns the index of what it wrote. r is read to its
// end, also behind the end of the archive.
//
// Names are cleaned, absolute ones taken as relative, and ".." stops at dir; an
// entry whose directory is a link of this layer goes where that leads within
// dir. A later entry takes the place of an earlier one; directories merge.
// Whiteouts concern lower layers only, wherever they stand in the tar. Attributes
// that digest.KeepXattr does not keep are dropped, and times before 1970 become
// 1970. After an error dir holds whatever was written so far.
func Unpack(ctx context.Context, r io.Reader, dir string, o UnpackOptions) (*digest.Index, error) {
	u, err := newUnpacker(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	defer u.close()
	br := bufio.NewReaderSize(r, 256<<10)
	if err := u.entries(tar.NewReader(br)); err != nil {
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	if _, err := io.Copy(io.Discard, br); err != nil {
		return nil, fmt.Errorf("unpack layer: read behind the archive: %w", err)
	}
	x, err := u.finish()
	if err != nil {
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	return x, nil
}

type unpacker struct {
	*files
	o      UnpackOptions
	rootFD int
	root   *node

	lastName string // the last directory that was asked for by name, and it
	lastDir  *node
	openDir  *node // the directory that is open
	openFD   int
}

func newUnpacker(ctx context.Context, dir string, o UnpackOptions) (*unpacker, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	u := &unpacker{files: newFiles(ctx), o: o, rootFD: fd}
	u.keepOwner = o.IgnoreOwner
	switch names, err := os.ReadDir(dir); {
	case err != nil:
		u.close()
		return nil, err
	case len(names) > 0:
		u.close()
		return nil, fmt.Errorf("directory %s is not empty: it has %q", dir, names[0].Name())
	}
	u.root = newNode(nil, "", &inode{e: impliedDir(), implied: true})
	return u, nil
}

func (u *unpacker) close() {
	u.forget()
	unix.Close(u.rootFD)
}

func (u *unpacker) entries(tr *tar.Reader) error {
	for last := ""; ; {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the entry after %s: %w", quote(last), err)
		}
		if err := u.entry(hdr, tr); err != nil {
			return fmt.Errorf("entry %s: %w", quote(hdr.Name), err)
		}
		last = hdr.Name
	}
}

// entry unpacks one entry; r is its file's bytes.
func (u *unpacker) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean("/" + hdr.Name)[1:]
	if name == "" {
		return u.rootEntry(hdr)
	}
	if len(name) >= unix.PathMax {
		return unix.ENAMETOOLONG
	}
	dir, base := split(name)
	if strings.Contains("/"+dir, "/"+whiteoutMeta) || strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque {
		return nil // AUFS's own files, which old images have
	}
	hidden, isWhiteout, err := whiteoutOf(base)
	if err != nil {
		return err
	}
	parent, err := u.parent(dir)
	if err != nil {
		return err
	}
	switch {
	case base == whiteoutOpaque:
		parent.ino.e.Opaque = true
		return nil
	case isWhiteout:
		return u.whiteout(parent, hidden)
	}
	e, err := headerEntry(hdr)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.dir(parent, base, e)
	case tar.TypeLink:
		return u.hardlink(parent, base, hdr.Linkname, e)
	}
	e.Size = hdr.Size
	return u.create(parent, base, e, r, isSparse(hdr))
}

// rootEntry takes the root directory's description from a tar that Pack wrote.
func (u *unpacker) rootEntry(hdr *tar.Header) error {
	if hdr.PAXRecords[paxRoot] == "" || hdr.Typeflag != tar.TypeDir {
		return nil
	}
	e, err := headerEntry(hdr)
	if err != nil {
		return err
	}
	e.Opaque = u.root.ino.e.Opaque
	u.root.ino.e, u.root.ino.implied = e, false
	return nil
}

// lowerView returns what lies below, nil if that is not known.
func (u *unpacker) lowerView() (*digest.View, error) {
	if u.o.WaitLower != nil {
		v, err := u.o.WaitLower(u.ctx)
		if err != nil {
			return nil, fmt.Errorf("wait for the layers below: %w", err)
		}
		u.o.Lower, u.o.WaitLower = v, nil
	}
	return u.o.Lower, nil
}

// whiteout hides a name of the layers below. What this layer has under the name
// stays, wherever in the tar it stands.
func (u *unpacker) whiteout(parent *node, name string) error {
	if old := parent.kids[name]; old != nil {
		if old.ino.e.IsDir() {
			old.ino.e.Opaque = true
		}
		return nil
	}
	return u.create(parent, name, digest.Entry{Whiteout: true, Mode: unix.S_IFCHR, ModTime: epoch}, nil, false)
}

// dir creates a directory, or describes one that is there anew.
func (u *unpacker) dir(parent *node, name string, e digest.Entry) error {
	old := parent.kids[name]
	if old == nil || !old.ino.e.IsDir() {
		_, err := u.mkdir(parent, name, e)
		return err
	}
	e.Opaque = old.ino.e.Opaque
	if !old.ino.implied {
		e.Xattrs = union(old.ino.e.Xattrs, e.Xattrs)
	}
	old.ino.e, old.ino.implied = e, false
	return nil
}

// create makes anything but a directory and a hard link.
func (u *unpacker) create(parent *node, name string, e digest.Entry, r io.Reader, sparse bool) error {
	if old := parent.kids[name]; old != nil {
		if err := u.remove(old); err != nil {
			return err
		}
	}
	fd, err := u.open(parent)
	if err != nil {
		return err
	}
	if e.IsRegular() {
		err = u.regular(fd, name, &e, r, sparse)
	} else {
		if e.IsDevice() && e.Mode&unix.S_IFMT == unix.S_IFCHR && e.Major == 0 && e.Minor == 0 {
			// On disk it is a whiteout, whatever it is meant to be.
			return u.whiteout(parent, name)
		}
		e.Size = 0
		err = u.special(fd, name, &e)
		if e.IsDevice() && errors.Is(err, unix.EPERM) && (u.o.IgnoreOwner || u.o.UserXattr) {
			return nil // a user namespace: no device would work there
		}
	}
	if err != nil {
		return err
	}
	newNode(parent, name, &inode{e: e})
	return nil
}
