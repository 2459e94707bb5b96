package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// PackOptions say how a layer is packed.
type PackOptions struct {
	// Epoch is what later times are set to (exporter option rewrite-timestamp);
	// nil leaves them.
	Epoch *time.Time
	// UserXattr is that of ScanOptions, for a layer without an index.
	UserXattr bool
}

// Pack writes a layer as a tar. Equal files give equal bytes: entries come in
// the byte order of their paths, a hard link thus after the file that it links
// to, without the names of users and groups and in the PAX format, of which
// records are used only where the plain header cannot say it. As in BuildKit's
// layers, times are cut to seconds, whiteouts have time and mode zero, and sockets
// are left out. The root directory has an entry if it is not of mode 0755, owned
// by 0:0; only Unpack heeds it. A layer without an index is scanned first.
//
// A file that is not as the index says is an error, and so is a name that begins
// with ".wh.": layer.md has no way to write it.
func Pack(ctx context.Context, l digest.Layer, w io.Writer, o PackOptions) error {
	if l.Index == nil {
		x, err := digest.Scan(ctx, l.Dir, digest.ScanOptions{UserXattr: o.UserXattr})
		if err != nil {
			return fmt.Errorf("pack layer: %w", err)
		}
		l.Index = x
	}
	root, err := unix.Open(l.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pack layer: %w", &os.PathError{Op: "open", Path: l.Dir, Err: err})
	}
	bw := bufio.NewWriterSize(w, 256<<10)
	defer unix.Close(root)
	p := &packer{ctx: ctx, o: o, tw: tar.NewWriter(bw), files: readAhead(ctx, root, filled(l.Index))}
	defer p.files.close()
	for e := range l.Index.All() {
		if err := p.entry(e); err != nil {
			return fmt.Errorf("pack layer: %s: %w", quote(e.Path), err)
		}
	}
	if err := p.tw.Close(); err != nil {
		return fmt.Errorf("pack layer: %w", err)
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("pack layer: %w", err)
	}
	return nil
}

// filled lists the files that have bytes of their own.
func filled(x *digest.Index) iter.Seq[digest.Entry] {
	return func(yield func(digest.Entry) bool) {
		for e := range x.All() {
			if e.IsRegular() && e.Hardlink == "" && e.Size > 0 && !yield(e) {
				return
			}
		}
	}
}

type packer struct {
	ctx   context.Context
	o     PackOptions
	tw    *tar.Writer
	files *ahead
}

func (p *packer) entry(e digest.Entry) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	dir, base := split(e.Path)
	switch {
	case e.Path == "":
		return p.rootEntry(e)
	case strings.HasPrefix(base, whiteoutPrefix):
		return fmt.Errorf("an image layer cannot hold a file whose name begins with %q (OCI image-spec, layer.md)", whiteoutPrefix)
	case e.Whiteout:
		return p.marker(join(dir, whiteoutPrefix+base))
	case e.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return nil
	}
	hdr, err := p.header(e)
	if err != nil {
		return err
	}
	if err := p.tw.WriteHeader(hdr); err != nil {
		return err
	}
	if e.Opaque {
		return p.marker(join(e.Path, whiteoutOpaque))
	}
	if hdr.Typeflag == tar.TypeReg && e.Size > 0 {
		return p.files.copy(p.tw, e)
	}
	return nil
}

func (p *packer) rootEntry(e digest.Entry) error {
	if e.Mode&0o7777 != 0o755 || e.UID != 0 || e.GID != 0 || len(e.Xattrs) > 0 {
		hdr, err := p.header(e)
		if err != nil {
			return err
		}
		hdr.Name = "./"
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxRoot] = "1"
		if err := p.tw.WriteHeader(hdr); err != nil {
			return err
		}
	}
	if e.Opaque {
		return p.marker(whiteoutOpaque)
	}
	return nil
}

// marker writes a file that says something about layers below.
func (p *packer) marker(name string) error {
	return p.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: epoch, Format: tar.FormatPAX})
}

func (p *packer) header(e digest.Entry) (*tar.Header, error) {
	mtime := e.ModTime
	if p.o.Epoch != nil && mtime.After(*p.o.Epoch) {
		mtime = *p.o.Epoch
	}
	hdr := &tar.Header{
		Name: e.Path, Mode: int64(e.Mode & 0o7777), Uid: int(e.UID), Gid: int(e.GID),
		// Truncate would count from the year 1, not from zero.
		ModTime: time.Unix(mtime.Unix(), 0), Format: tar.FormatPAX,
	}
	for k, v := range e.Xattrs {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxXattr+k] = v
	}
	// A link's header has attributes, too: containerd changes the owner for each
	// link, which takes security.capability away.
	if e.Hardlink != "" {
		hdr.Typeflag, hdr.Linkname = tar.TypeLink, e.Hardlink
		return hdr, nil
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.Size
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, e.Path+"/"
	case unix.S_IFLNK:
		hdr.Typeflag, hdr.Linkname = tar.TypeSymlink, e.Link
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case unix.S_IFBLK:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	default:
		return nil, fmt.Errorf("mode %#o has no type that a tar knows", e.Mode)
	}
	return hdr, nil
}
