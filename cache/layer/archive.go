package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// ErrNotArchive is wrapped by UnpackArchive for what is no tar. Nothing is
// written then.
var ErrNotArchive = errors.New("not a tar archive, plain or compressed with gzip, bzip2, xz or zstd")

// Owner is a user and a group by number.
type Owner struct{ UID, GID uint32 }

// ArchiveOptions say how an archive is unpacked.
type ArchiveOptions struct {
	// Dest is the directory below dir that entries are placed in, as if it were
	// the root of the file system: a link never leads out of it. It must exist;
	// links in Dest itself are resolved within dir. "" is dir.
	Dest string
	// Owner gives every entry to one owner; nil leaves what the archive says.
	Owner *Owner
	// IgnoreOwner is that of UnpackOptions.
	IgnoreOwner bool
}

// DetectArchive tells whether r begins as an archive that UnpackArchive takes:
// whether it decompresses, by its magic, to something with a tar header. It
// reads no more of r than that takes. The error is that of reading r.
func DetectArchive(r io.Reader) (bool, error) {
	a, err := openArchive(r)
	if err != nil {
		if errors.Is(err, ErrNotArchive) {
			return false, nil
		}
		return false, fmt.Errorf("detect archive: %w", err)
	}
	a.close()
	return true, nil
}

// UnpackArchive unpacks a tar, plain or compressed with gzip, bzip2, xz or zstd,
// into a directory that may hold a whole root file system, as Docker does for
// ADD of a local archive. Nothing in it is a whiteout. An entry takes the place
// of what is there, a link included; directories merge. Directories on the way
// that are missing are made with mode 0755, owned by 0:0. Links in the directory
// part of a name are resolved within the destination.
//
// Files that are there are never written into, but a hard link to one gives it
// the metadata that the archive has for the link: no layer may share inodes with
// dir.
func UnpackArchive(ctx context.Context, r io.Reader, dir string, o ArchiveOptions) error {
	a, err := openArchive(r)
	if err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	defer a.close()
	root, err := openDest(dir, o.Dest)
	if err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	x := newExtractor(ctx, root, o)
	defer x.close()
	if err := x.entries(a); err != nil {
		return fmt.Errorf("unpack archive: %w", err)
	}
	return nil
}

func openDest(dir, dest string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	if dest == "" {
		return fd, nil
	}
	defer unix.Close(fd)
	sub, err := openInRoot(fd, path.Clean("/"+dest), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dest, Err: err}
	}
	return sub, nil
}

// archive is an archive whose first header has been read.
type archive struct {
	tr    *tar.Reader
	first *tar.Header
	close func()
}

// next is the next header, that which told that it is an archive to begin with.
func (a *archive) next() (*tar.Header, error) {
	if hdr := a.first; hdr != nil {
		a.first = nil
		return hdr, nil
	}
	return a.tr.Next()
}

func openArchive(r io.Reader) (*archive, error) {
	src := &source{r: r}
	z, closeZ, err := decompressArchive(src)
	if err == nil {
		a := &archive{tr: tar.NewReader(bufio.NewReaderSize(z, 128<<10)), close: closeZ}
		if a.first, err = a.tr.Next(); err == nil {
			return a, nil
		}
		closeZ()
	}
	if src.err != nil {
		return nil, src.err
	}
	if err == io.EOF {
		return nil, fmt.Errorf("%w: it is empty", ErrNotArchive)
	}
	return nil, fmt.Errorf("%w: %w", ErrNotArchive, err)
}

// source remembers whether reading failed, so that this is not taken for bad
// data.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func decompressArchive(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(8)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	none := func() {}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(br)
		return z, none, err
	case bytes.HasPrefix(head, bzip2Magic):
		return bzip2.NewReader(br), none, nil
	case bytes.HasPrefix(head, xzMagic):
		z, err := xz.NewReader(br)
		return z, none, err
	case isZstd(head):
		z, err := zstd.NewReader(br)
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return br, none, nil
	}
}
