package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/sysx"
)

// Directory returns the files of a directory as a tar archive: owners, modes,
// times, links, devices and extended attributes as they are. Sockets are left
// out.
func Directory(ctx context.Context, dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() { // ends with the directory or the reader
		w.CloseWithError(write(ctx, w, dir))
	}()
	return r
}

type inode struct{ dev, ino uint64 }

func write(ctx context.Context, w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	linked := map[inode]string{} // files with several names, by their first
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fi.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		return add(tw, path, filepath.ToSlash(rel), fi, linked)
	})
	return errors.Join(err, tw.Close())
}

// add writes one file.
func add(tw *tar.Writer, path, name string, fi fs.FileInfo, linked map[inode]string) error {
	h, err := header(path, name, fi)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && !fi.IsDir() {
		id := inode{st.Dev, st.Ino}
		if first, ok := linked[id]; ok {
			h.Typeflag, h.Linkname, h.Size, h.PAXRecords = tar.TypeLink, first, 0, nil
			return tw.WriteHeader(h)
		}
		linked[id] = name
	}
	if h.Typeflag != tar.TypeReg {
		return tw.WriteHeader(h)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(tw, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("read %s: it became shorter while it was read", path)
	}
	return err
}

func header(path, name string, fi fs.FileInfo) (*tar.Header, error) {
	link := ""
	if fi.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(fi, link)
	if err != nil {
		return nil, err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if fi.IsDir() {
		h.Name += "/"
	}
	// Names of this machine's users mean nothing in an image.
	h.Uname, h.Gname = "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	attrs, err := xattrs(path)
	if err != nil {
		return nil, err
	}
	for k, v := range attrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	return h, nil
}

// xattrs returns the attributes of a file that belong to its content; those of a
// security module or an overlay mount are this machine's.
func xattrs(path string) (map[string]string, error) {
	names, err := sysx.LListxattr(path)
	if errors.Is(err, syscall.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read attributes of %s: %w", path, err)
	}
	out := map[string]string{}
	for _, n := range names {
		if n != "security.capability" && (!strings.HasPrefix(n, "user.") || strings.HasPrefix(n, "user.overlay.")) {
			continue
		}
		v, err := sysx.LGetxattr(path, n)
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %s: %w", n, path, err)
		}
		out[n] = string(v)
	}
	return out, nil
}
