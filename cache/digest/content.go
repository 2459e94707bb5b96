package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
)

// Kinds of what a content digest is of; each digest begins with one, and each
// item of a selection is introduced by one.
const (
	kindIndex     = "buildd layer content 1"
	kindSelection = "buildd selection content 1"
)

// hasher digests entries. Every variable part carries its length, so no two
// lists of entries write the same bytes.
type hasher struct {
	h   hash.Hash
	buf []byte
}

func newHasher(kind string) *hasher {
	d := &hasher{h: sha256.New(), buf: make([]byte, 0, 1024)}
	d.string(kind)
	return d
}

func (d *hasher) string(s string) {
	d.buf = binary.AppendUvarint(d.buf, uint64(len(s)))
	d.buf = append(d.buf, s...)
}

func (d *hasher) byte(b byte) { d.buf = append(d.buf, b) }

func (d *hasher) flush() {
	d.h.Write(d.buf)
	d.buf = d.buf[:0]
}

func (d *hasher) sum() cache.Key {
	d.flush()
	return cache.Key(d.h.Sum(nil))
}

// entry writes all of e that counts, under the given path.
func (d *hasher) entry(path string, e *Entry) {
	d.string(path)
	var kind byte
	switch {
	case e.Whiteout:
		kind = 'w'
	case e.Opaque:
		kind = 'o'
	default:
		kind = 'e'
	}
	d.byte(kind)
	if e.Whiteout {
		return
	}
	d.buf = binary.BigEndian.AppendUint32(d.buf, e.Mode)
	d.buf = binary.BigEndian.AppendUint32(d.buf, e.UID)
	d.buf = binary.BigEndian.AppendUint32(d.buf, e.GID)
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		d.buf = append(d.buf, e.Hash[:]...)
	case unix.S_IFLNK:
		d.string(e.Link)
	case unix.S_IFCHR, unix.S_IFBLK:
		d.buf = binary.BigEndian.AppendUint32(d.buf, e.Major)
		d.buf = binary.BigEndian.AppendUint32(d.buf, e.Minor)
	}
	d.buf = binary.AppendUvarint(d.buf, uint64(len(e.Xattrs)))
	if len(e.Xattrs) > 0 {
		for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
			d.string(k)
			d.string(e.Xattrs[k])
		}
	}
	if len(d.buf) > 16<<10 {
		d.flush()
	}
}

// Content is the digest of all that the layer changes: paths, types, modes,
// owners, extended attributes, link targets, devices, bytes, whiteouts and
// opaqueness. Times do not count, nor does which files are hard links.
func (x *Index) Content() cache.Key {
	x.once.Do(func() {
		d := newHasher(kindIndex)
		for e := range x.All() {
			d.entry(e.Path, &e)
		}
		x.content = d.sum()
	})
	return x.content
}
