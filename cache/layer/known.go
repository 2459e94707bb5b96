package layer

import (
	"errors"
	"fmt"
	"maps"
	"os"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// leastKnown is the size of a layer from which on it is worth to look for its
// files among those of other layers.
const leastKnown = 64 << 10

// fileID names the bytes of a regular file.
type fileID struct {
	hash [32]byte
	size int64
}

func idOf(e digest.Entry) fileID { return fileID{e.Hash, e.Size} }

// knownFile is a file of a layer that is here.
type knownFile struct {
	layer *digest.Layer
	path  string
}

// knownFiles returns the files of bases with bytes that a layer needs. Both ends
// of a transfer come to the same, as it depends on the indexes alone.
func knownFiles(x *digest.Index, bases []digest.Layer) map[fileID]knownFile {
	if x.Size() < leastKnown || len(bases) == 0 {
		return nil
	}
	wanted := map[fileID]bool{}
	for e := range x.All() {
		if e.IsRegular() && e.Size > 0 {
			wanted[idOf(e)] = true
		}
	}
	known := map[fileID]knownFile{}
	for i := range bases {
		for e := range bases[i].Index.All() {
			if e.IsRegular() && wanted[idOf(e)] {
				known[idOf(e)] = knownFile{&bases[i], e.Path}
			}
		}
	}
	return known
}

// link makes a hard link of the file if it is like e in all else, too; linked is
// false if it is not, or has too many links.
func (k knownFile) link(dir int, name string, e digest.Entry) (linked bool, err error) {
	have, ok := k.layer.Index.Lookup(k.path)
	if !ok || have.Mode != e.Mode || have.UID != e.UID || have.GID != e.GID || !have.ModTime.Equal(e.ModTime) || !maps.Equal(have.Xattrs, e.Xattrs) {
		return false, nil
	}
	fd, err := k.openFD(unix.O_PATH)
	if err != nil {
		return false, fmt.Errorf("open %s of a layer that is here: %w", quote(k.path), err)
	}
	defer unix.Close(fd)
	err = unix.Linkat(fd, "", dir, name, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) { // without CAP_DAC_READ_SEARCH there is this way only
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	if errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("link to %s of a layer that is here: %w", quote(k.path), err)
	}
	return true, nil
}

func (k knownFile) open() (*os.File, error) {
	fd, err := k.openFD(unix.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), k.path), nil
}

func (k knownFile) openFD(flags int) (int, error) {
	root, err := unix.Open(k.layer.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return openBeneath(root, k.path, flags)
}
