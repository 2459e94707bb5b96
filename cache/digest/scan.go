package digest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// ScanOptions say how a layer's directory is to be read.
type ScanOptions struct {
	// UserXattr says that overlay's attributes are user.overlay.*, not
	// trusted.overlay.* (mount option userxattr, rootless).
	UserXattr bool
	// KeptOwner has OwnerXattr count, where a user namespace maps one ID. Elsewhere
	// a build step's user could make root the owner of a file with it.
	KeptOwner bool
	// Known returns the SHA-256 of a regular file's bytes where the caller knows
	// it, as of files that it hard-linked from another layer. It is called from
	// several goroutines; nil knows nothing.
	Known func(rel string, st *unix.Stat_t) (hash [32]byte, ok bool)
}

// Scan indexes a layer's directory in overlay upper format (Linux
// Documentation/filesystems/overlayfs.rst): character devices 0,0 are whiteouts,
// the attribute overlay.opaque = "y" makes a directory opaque, and no other
// attribute of overlay occurs, as mounts turn redirect_dir and metacopy off. It
// walks and hashes on all cores and reads each inode once. Nobody may write to
// dir meanwhile.
func Scan(ctx context.Context, dir string, o ScanOptions) (*Index, error) {
	s := &scanner{o: o, inodes: map[inode]*scanned{}}
	if err := s.scan(ctx, dir); err != nil {
		return nil, fmt.Errorf("scan layer %s: %w", dir, err)
	}
	b := &Builder{entries: make([]Entry, 0, len(s.found))}
	for _, f := range s.found {
		if f.first != nil {
			f.e.Hash = f.first.e.Hash
			f.e.Hardlink = f.first.e.Path
		}
		b.Add(f.e)
	}
	return b.Index()
}

var emptyHash = sha256.Sum256(nil)

type inode struct{ dev, ino uint64 }

// scanned is an entry as found; first is another entry of the same inode, which
// is hashed in its place.
type scanned struct {
	e     Entry
	first *scanned
	hash  bool // the bytes are to be hashed
}

type scanner struct {
	o    ScanOptions
	root int // descriptor of the layer's directory

	mu     sync.Mutex // guards what follows
	found  []*scanned
	inodes map[inode]*scanned
}

func (s *scanner) scan(ctx context.Context, dir string) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	s.root = root
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	e, err := s.entry("", procPath(root)+"/.", &st, root, "")
	if err != nil {
		return err
	}
	s.found = append(s.found, &scanned{e: e})

	g, walkCtx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 1)
	g.Go(func() error { return s.walk(walkCtx, g, root, "") })
	if err := g.Wait(); err != nil {
		return err
	}
	return s.hashAll(ctx)
}

// walk indexes what is in the directory fd, and hands directories in it to
// other goroutines where some are idle.
func (s *scanner) walk(ctx context.Context, g *errgroup.Group, fd int, rel string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("read directory %q: %w", rel, err)
	}
	found := make([]*scanned, 0, len(names))
	proc := procPath(fd) + "/"
	for _, name := range names {
		f, err := s.file(fd, proc, join(rel, name), name)
		if err != nil {
			return err
		}
		found = append(found, f)
	}
	s.add(found)
	for i, f := range found {
		if !f.e.IsDir() {
			continue
		}
		sub, err := unix.Openat(fd, names[i], unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open directory %q: %w", f.e.Path, err)
		}
		walk := func() error {
			defer unix.Close(sub)
			return s.walk(ctx, g, sub, f.e.Path)
		}
		if g.TryGo(walk) {
			continue
		}
		if err := walk(); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) add(found []*scanned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, found...)
}

// file stats one name in the directory fd; proc is a path to that directory.
func (s *scanner) file(fd int, proc, rel, name string) (*scanned, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, fmt.Errorf("stat %q: %w", rel, err)
	}
	e, err := s.entry(rel, proc+name, &st, fd, name)
	if err != nil {
		return nil, err
	}
	f := &scanned{e: e}
	if st.Nlink > 1 && !e.IsDir() && !e.Whiteout {
		f.first = s.sameInode(inode{st.Dev, st.Ino}, f)
	}
	if e.IsRegular() && f.first == nil {
		f.hash = st.Size > 0
		f.e.Hash = emptyHash
		if s.o.Known != nil {
			if h, ok := s.o.Known(rel, &st); ok {
				f.e.Hash, f.hash = h, false
			}
		}
	}
	return f, nil
}

// sameInode returns what was found of the inode before, else remembers f.
func (s *scanner) sameInode(ino inode, f *scanned) *scanned {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.inodes[ino]; ok {
		return first
	}
	s.inodes[ino] = f
	return nil
}

// entry describes a file that can be reached by path and, but for the root, as
// name in fd.
func (s *scanner) entry(rel, path string, st *unix.Stat_t, fd int, name string) (Entry, error) {
	e := Entry{
		Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size,
		ModTime: time.Unix(int64(st.Mtim.Sec), int64(st.Mtim.Nsec)),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			e.Whiteout = true
			return e, nil
		}
	case unix.S_IFLNK:
		link, err := readlink(fd, name, int(st.Size))
		if err != nil {
			return e, fmt.Errorf("read link %q: %w", rel, err)
		}
		e.Link = link
	}
	if err := s.xattrs(&e, path); err != nil {
		return e, fmt.Errorf("read extended attributes of %q: %w", rel, err)
	}
	return e, nil
}

// xattrs sets what extended attributes say about e.
func (s *scanner) xattrs(e *Entry, path string) error {
	names, err := listXattrs(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		opaque := name == OpaqueXattr(s.o.UserXattr) && e.IsDir()
		kept := name == OwnerXattr && s.o.KeptOwner
		if !opaque && !kept && !KeepXattr(name) {
			continue
		}
		v, ok, err := getXattr(path, name)
		if err != nil {
			return err
		}
		switch {
		case !ok:
		case opaque:
			e.Opaque = v == "y"
		case kept:
			if uid, gid, ok := ParseOwner(v); ok {
				e.UID, e.GID = uid, gid
			}
		default:
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return nil
}

// hashAll hashes the files that walk found, the next one on whichever core is
// free.
func (s *scanner) hashAll(ctx context.Context) error {
	var files []*scanned
	for _, f := range s.found {
		if f.hash {
			files = append(files, f)
		}
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(files)) {
		g.Go(func() error {
			h := sha256.New()
			buf := make([]byte, 256<<10)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(files)) {
					return nil
				}
				f := files[i]
				n, err := hashFile(ctx, s.root, f.e.Path, func(p []byte) { h.Write(p) }, buf)
				if err != nil {
					return fmt.Errorf("hash %q: %w", f.e.Path, err)
				}
				if n != f.e.Size {
					return fmt.Errorf("hash %q: read %d bytes of %d: it is being written to", f.e.Path, n, f.e.Size)
				}
				h.Sum(f.e.Hash[:0])
				h.Reset()
			}
		})
	}
	return g.Wait()
}

func hashFile(ctx context.Context, root int, rel string, write func([]byte), buf []byte) (int64, error) {
	fd, err := openBeneath(root, rel, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var total int64
	for {
		n, err := readFD(fd, buf)
		if err != nil {
			return total, err
		}
		if n == 0 {
			return total, nil
		}
		write(buf[:n])
		total += int64(n)
		if n < len(buf) { // a regular file gives less only at its end
			return total, nil
		}
		if err := ctx.Err(); err != nil {
			return total, err
		}
	}
}

func readFD(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// openBeneath opens a path below a directory, which no symbolic link takes part
// in.
func openBeneath(root int, rel string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(root, rel, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// procPath names an open directory, for the calls on extended attributes that
// take no descriptor and name.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// readNames lists an open directory, unsorted.
func readNames(fd int) ([]string, error) {
	var names []string
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

func readlink(fd int, name string, size int) (string, error) {
	for buf := make([]byte, max(size, 63)+1); ; buf = make([]byte, 2*len(buf)) {
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < len(buf) {
			return string(buf[:n]), nil
		}
	}
}

// listXattrs names the extended attributes of a file; none where the file
// system has no such thing.
func listXattrs(path string) ([]string, error) {
	var small [512]byte
	buf := small[:]
	for {
		n, err := unix.Llistxattr(path, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			if n, err = unix.Llistxattr(path, nil); err != nil {
				return nil, err
			}
			buf = make([]byte, n+256)
			continue
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return splitNames(buf[:n]), nil
	}
}

func splitNames(b []byte) []string {
	var out []string
	for start, i := 0, 0; i < len(b); i++ {
		if b[i] == 0 {
			out = append(out, string(b[start:i]))
			start = i + 1
		}
	}
	return out
}

// getXattr reads one attribute; not ok if it is not there (any more).
func getXattr(path, name string) (v string, ok bool, err error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		switch {
		case errors.Is(err, unix.ERANGE):
			if n, err = unix.Lgetxattr(path, name, nil); err != nil {
				return "", false, err
			}
			buf = make([]byte, n+64)
			continue
		case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
			return "", false, nil
		case err != nil:
			return "", false, err
		}
		return string(buf[:n]), true, nil
	}
}
