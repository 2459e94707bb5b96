package export

import (
	"context"
	"fmt"
	"io"
	gofs "io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// files returns the merged files of a tree, fetched if they are not here.
func files(ctx context.Context, trees Trees, r Request, t cache.Tree) (*digest.View, error) {
	if t == "" {
		return digest.NewView(nil), nil
	}
	if err := trees.Ensure(ctx, t, r.Provider, nil); err != nil {
		return nil, fmt.Errorf("fetch files: %w", err)
	}
	v, err := trees.Files(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	return v, nil
}

// viewFS is a directory of a view as fsutil takes it. Nothing is mounted, so it
// works for every user, and what layers share by hard links for their own
// reasons does not look like a hard link of the image.
type viewFS struct {
	view  *digest.View
	root  string // resolved, clean, absolute
	epoch *time.Time
}

// newViewFS opens the directory src of v.
func newViewFS(v *digest.View, src string, epoch *time.Time) (*viewFS, error) {
	root, err := v.Resolve(path.Join("/", src), true)
	if err != nil {
		return nil, fmt.Errorf("src=%s: %w", src, err)
	}
	root = path.Join("/", root)
	if root != "/" {
		e, err := v.Lstat(root)
		if err != nil {
			return nil, fmt.Errorf("src=%s: %w", src, err)
		}
		if e.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, fmt.Errorf("src=%s: %w", src, unix.ENOTDIR)
		}
	}
	return &viewFS{view: v, root: root, epoch: epoch}, nil
}

// Open implements fsutil.FS.
func (f *viewFS) Open(p string) (io.ReadCloser, error) {
	return f.view.Open(path.Join(f.root, path.Join("/", p)))
}

// Walk implements fsutil.FS. The root itself is left out, and so are sockets:
// nobody listens on them any more.
func (f *viewFS) Walk(ctx context.Context, target string, fn gofs.WalkDirFunc) error {
	start := path.Join(f.root, path.Join("/", target))
	links := map[string]string{}
	return f.view.Walk(start, func(p string, e digest.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, ok := f.rel(p)
		if !ok || e.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		st := f.stat(rel, e)
		f.link(st, p, e, links)
		return fn(rel, &fsutil.DirEntryInfo{Stat: st}, nil)
	})
}

// rel returns p relative to the root; false for the root.
func (f *viewFS) rel(p string) (string, bool) {
	p = strings.Trim(strings.TrimPrefix(path.Join("/", p), f.root), "/")
	return p, p != ""
}

// stat describes an entry as fsutil has it.
func (f *viewFS) stat(rel string, e digest.Entry) *fstypes.Stat {
	st := &fstypes.Stat{
		Path:     rel,
		Mode:     uint32(goMode(e.Mode)),
		Uid:      e.UID,
		Gid:      e.GID,
		Size:     e.Size,
		ModTime:  e.ModTime.UnixNano(),
		Linkname: e.Link,
		Devmajor: int64(e.Major),
		Devminor: int64(e.Minor),
	}
	if f.epoch != nil {
		st.ModTime = f.epoch.UnixNano()
	}
	for k, v := range e.Xattrs {
		if st.Xattrs == nil {
			st.Xattrs = map[string][]byte{}
		}
		st.Xattrs[k] = []byte(v)
	}
	return st
}

// link makes st a hard link if another name of the same file was walked before.
// Names of a file count as such within one layer only: overlay breaks a link
// that reaches into another one.
func (f *viewFS) link(st *fstypes.Stat, p string, e digest.Entry, links map[string]string) {
	if e.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	host, err := f.view.HostPath(p)
	if err != nil {
		return
	}
	// The layer's directory, then the name that stands for all names of the file.
	file := strings.TrimSuffix(host, path.Join("/", e.Path))
	if e.Hardlink != "" {
		file = path.Join(file, e.Hardlink)
	} else {
		file = host
	}
	if first, ok := links[file]; ok {
		st.Linkname, st.Size = first, 0
		return
	}
	links[file] = st.Path
}

// goMode converts st_mode.
func goMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= os.ModeDir
	case unix.S_IFLNK:
		m |= os.ModeSymlink
	case unix.S_IFBLK:
		m |= os.ModeDevice
	case unix.S_IFCHR:
		m |= os.ModeDevice | os.ModeCharDevice
	case unix.S_IFIFO:
		m |= os.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= os.ModeSocket
	}
	for bit, is := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}

// platformDir is the name of a platform's directory.
func platformDir(id string) string {
	id = strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(id)
	if id == "." || id == ".." {
		return strings.Repeat("_", len(id))
	}
	return id
}
