package digest

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// check tells whether every access to x will stay in bounds and x is what a
// Builder could have made.
func (x *Index) check() error {
	var size int64
	parent := -1 // the last parent found: neighbours mostly share it
	for i := range x.n {
		r := headerSize + i*recordSize
		off, n := u32(x.raw, r+recPath), u16(x.raw, r+recPathLen)
		if uint64(off)+uint64(n) > uint64(len(x.heap)) {
			return fmt.Errorf("entry %d: path out of bounds", i)
		}
		if flags := u16(x.raw, r+recFlags); flags&^flagsKnown != 0 {
			return fmt.Errorf("entry %d: flags %#x", i, flags)
		}
		if uint64(u32(x.raw, r+recDetail)) > uint64(len(x.heap)) || u32(x.raw, r+recNsec) >= 1e9 {
			return fmt.Errorf("entry %d: detail or time out of bounds", i)
		}
		if u32(x.raw, r+recHardlink) > uint32(i) {
			return fmt.Errorf("entry %d: hard link to a later entry", i)
		}
		e, ok := x.decode(i)
		if !ok || e.Size < 0 {
			return fmt.Errorf("entry %d: detail out of bounds", i)
		}
		if err := checkEntry(e); err != nil {
			return err
		}
		if i > 0 && x.path(i-1) >= e.Path {
			return fmt.Errorf("entry %q: not in order", e.Path)
		}
		var err error
		if parent, err = x.checkParent(i, parent); err != nil {
			return err
		}
		if err := x.checkLink(i, e); err != nil {
			return err
		}
		if e.Hardlink == "" {
			size += e.Size
			if size < 0 {
				return errors.New("sizes overflow")
			}
		}
	}
	if size != x.Size() {
		return fmt.Errorf("files of %d bytes, header says %d", size, x.Size())
	}
	return nil
}

// checkParent returns the number of the directory that entry i lies in.
func (x *Index) checkParent(i, hint int) (int, error) {
	p := x.path(i)
	if i == 0 {
		if p != "" || !x.isDir(0) {
			return -1, errors.New("no root directory")
		}
		return -1, nil
	}
	dir := p[:max(0, strings.LastIndexByte(p, '/'))]
	if hint < 0 || x.path(hint) != dir {
		j, ok := x.find(dir, i)
		if !ok {
			return -1, fmt.Errorf("entry %q: its directory is missing", p)
		}
		hint = j
	}
	if !x.isDir(hint) {
		return -1, fmt.Errorf("entry %q: lies in %q, which is no directory", p, dir)
	}
	return hint, nil
}

func (x *Index) checkLink(i int, e Entry) error {
	r := headerSize + i*recordSize
	j := int(u32(x.raw, r+recHardlink))
	hard := u16(x.raw, r+recFlags)&flagHardlink != 0
	if hard != (j != i) {
		return fmt.Errorf("entry %q: hard link flag", e.Path)
	}
	if !hard {
		return nil
	}
	// Entries of one inode differ in path only, the first is marked as no link.
	t := headerSize + j*recordSize
	if x.raw[t+recMode:t+recHardlink] != x.raw[r+recMode:r+recHardlink] ||
		u16(x.raw, t+recFlags)|flagHardlink != u16(x.raw, r+recFlags) || e.IsDir() || e.Whiteout ||
		int(u32(x.raw, t+recHardlink)) != j {
		return fmt.Errorf("entry %q: not the inode that it is a hard link of", e.Path)
	}
	return nil
}

// checkEntry holds an entry to what its documentation says.
func checkEntry(e Entry) error {
	if !validPath(e.Path) {
		return fmt.Errorf("entry %q: want a clean relative path", e.Path)
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fmt.Errorf("entry %q: mode %#o has no file type", e.Path, e.Mode)
	}
	if e.Mode&^(unix.S_IFMT|0o7777) != 0 || e.Opaque && !e.IsDir() || e.Whiteout && e.Mode != unix.S_IFCHR {
		return fmt.Errorf("entry %q: mode %#o", e.Path, e.Mode)
	}
	return nil
}

// validPath tells whether p is "" or slash-separated elements, none of them
// empty, "." or "..".
func validPath(p string) bool {
	if p == "" {
		return true
	}
	if strings.IndexByte(p, 0) >= 0 {
		return false
	}
	for rest, more := p, true; more; {
		var el string
		el, rest, more = strings.Cut(rest, "/")
		if el == "" || el == "." || el == ".." {
			return false
		}
	}
	return true
}
