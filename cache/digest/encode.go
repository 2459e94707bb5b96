package digest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// The file format, all integers little-endian:
//
//	header   magic and version (8 bytes), number of entries (u32), zero (u32),
//	         length of the heap (u64), Size (u64)
//	records  one of recordSize bytes per entry, in the byte order of their paths
//	heap     paths and what belongs to an entry's type, see appendDetail
//	checksum CRC-32C of all of the above
//
// An Index is this file held in memory: reading it costs a checksum and a check
// of its structure, and nothing is decoded before it is asked for.
const (
	magic      = "bdindex\x01"
	headerSize = 32
	recordSize = 40
	sumSize    = 4
)

const (
	flagWhiteout = 1 << iota
	flagOpaque
	flagXattrs
	flagHardlink
	flagsKnown = 1<<iota - 1
)

// Offsets of a record's fields.
const (
	recPath     = 0  // u32, offset in the heap
	recPathLen  = 4  // u16
	recFlags    = 6  // u16
	recMode     = 8  // u32
	recUID      = 12 // u32
	recGID      = 16 // u32
	recSec      = 20 // i64
	recNsec     = 28 // u32
	recDetail   = 32 // u32, offset in the heap
	recHardlink = 36 // u32, number of the entry that is the first of the same inode
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped by ReadIndex for data that is no index, or is damaged.
var ErrCorrupt = errors.New("not a valid layer index")

func u16(s string, i int) uint16 { return uint16(s[i]) | uint16(s[i+1])<<8 }

func u32(s string, i int) uint32 {
	_ = s[i+3]
	return uint32(s[i]) | uint32(s[i+1])<<8 | uint32(s[i+2])<<16 | uint32(s[i+3])<<24
}

func u64(s string, i int) uint64 { return uint64(u32(s, i)) | uint64(u32(s, i+4))<<32 }

// newIndex splits a file whose structure holds.
func newIndex(raw string) *Index {
	n := int(u32(raw, 8))
	return &Index{raw: raw, n: n, heap: raw[headerSize+n*recordSize : len(raw)-sumSize]}
}

// encode writes entries that are sorted, normalized and checked by a Builder.
func encode(entries []Entry, links []int, size int64) (*Index, error) {
	le := binary.LittleEndian
	records := make([]byte, 0, len(entries)*recordSize)
	var heap []byte
	details := make([]uint32, len(entries))
	for i, e := range entries {
		path := len(heap)
		if len(e.Path) > math.MaxUint16 {
			return nil, fmt.Errorf("index path of %d bytes: the longest may have %d", len(e.Path), math.MaxUint16)
		}
		heap = append(heap, e.Path...)
		flags := entryFlags(e)
		link := links[i]
		if link != i {
			flags |= flagHardlink
			details[i] = details[link]
		} else {
			details[i] = uint32(len(heap))
			heap = appendDetail(heap, e)
		}
		if uint64(len(heap)) > math.MaxUint32 {
			return nil, errors.New("index layer: more than 4 GiB of paths")
		}
		records = le.AppendUint32(records, uint32(path))
		records = le.AppendUint16(records, uint16(len(e.Path)))
		records = le.AppendUint16(records, flags)
		records = le.AppendUint32(records, e.Mode)
		records = le.AppendUint32(records, e.UID)
		records = le.AppendUint32(records, e.GID)
		records = le.AppendUint64(records, uint64(e.ModTime.Unix()))
		records = le.AppendUint32(records, uint32(e.ModTime.Nanosecond()))
		records = le.AppendUint32(records, details[i])
		records = le.AppendUint32(records, uint32(link))
	}
	var b strings.Builder
	b.Grow(headerSize + len(records) + len(heap) + sumSize)
	head := append(make([]byte, 0, headerSize), magic...)
	head = le.AppendUint32(head, uint32(len(entries)))
	head = le.AppendUint32(head, 0)
	head = le.AppendUint64(head, uint64(len(heap)))
	head = le.AppendUint64(head, uint64(size))
	sum := uint32(0)
	for _, p := range [][]byte{head, records, heap} {
		sum = crc32.Update(sum, castagnoli, p)
		b.Write(p)
	}
	b.Write(le.AppendUint32(nil, sum))
	return newIndex(b.String()), nil
}

func entryFlags(e Entry) uint16 {
	var f uint16
	if e.Whiteout {
		f |= flagWhiteout
	}
	if e.Opaque {
		f |= flagOpaque
	}
	if len(e.Xattrs) > 0 {
		f |= flagXattrs
	}
	return f
}

// appendDetail writes size and hash of a regular file, the target of a symbolic
// link or the numbers of a device, then the extended attributes if there are any.
func appendDetail(b []byte, e Entry) []byte {
	le := binary.LittleEndian
	switch {
	case e.IsRegular():
		b = le.AppendUint64(b, uint64(e.Size))
		b = append(b, e.Hash[:]...)
	case e.IsSymlink():
		b = le.AppendUint32(b, uint32(len(e.Link)))
		b = append(b, e.Link...)
	case e.IsDevice():
		b = le.AppendUint32(b, e.Major)
		b = le.AppendUint32(b, e.Minor)
	}
	if len(e.Xattrs) == 0 {
		return b
	}
	b = le.AppendUint32(b, uint32(len(e.Xattrs)))
	for _, k := range slices.Sorted(maps.Keys(e.Xattrs)) {
		b = le.AppendUint32(b, uint32(len(k)))
		b = append(b, k...)
		b = le.AppendUint32(b, uint32(len(e.Xattrs[k])))
		b = append(b, e.Xattrs[k]...)
	}
	return b
}

// cursor reads an entry's detail; past the end it remembers that, and reads
// zeros.
type cursor struct {
	s   string
	off int
	bad bool
}

func (c *cursor) bytes(n uint64) string {
	if c.bad || n > uint64(len(c.s)-c.off) {
		c.bad = true
		return ""
	}
	b := c.s[c.off : c.off+int(n)]
	c.off += int(n)
	return b
}

func (c *cursor) uint32() uint32 {
	if b := c.bytes(4); !c.bad {
		return u32(b, 0)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.bytes(8); !c.bad {
		return u64(b, 0)
	}
	return 0
}

// detail reads what appendDetail wrote into e, whose Mode and Whiteout are set.
func (c *cursor) detail(e *Entry, xattrs bool) {
	switch {
	case e.IsRegular():
		e.Size = int64(c.uint64())
		copy(e.Hash[:], c.bytes(uint64(len(e.Hash))))
	case e.IsSymlink():
		e.Link = c.bytes(uint64(c.uint32()))
	case e.IsDevice():
		e.Major, e.Minor = c.uint32(), c.uint32()
	}
	if !xattrs {
		return
	}
	n := c.uint32()
	if c.bad || uint64(n)*8 > uint64(len(c.s)-c.off) {
		c.bad = true
		return
	}
	e.Xattrs = make(map[string]string, n)
	for range n {
		k := c.bytes(uint64(c.uint32()))
		e.Xattrs[k] = c.bytes(uint64(c.uint32()))
	}
}

// entry decodes the i-th entry.
func (x *Index) entry(i int) Entry {
	e, _ := x.decode(i)
	return e
}

func (x *Index) decode(i int) (Entry, bool) {
	r := headerSize + i*recordSize
	flags := u16(x.raw, r+recFlags)
	e := Entry{
		Path:     x.path(i),
		Mode:     u32(x.raw, r+recMode),
		UID:      u32(x.raw, r+recUID),
		GID:      u32(x.raw, r+recGID),
		ModTime:  time.Unix(int64(u64(x.raw, r+recSec)), int64(u32(x.raw, r+recNsec))).UTC(),
		Whiteout: flags&flagWhiteout != 0,
		Opaque:   flags&flagOpaque != 0,
	}
	if flags&flagHardlink != 0 {
		e.Hardlink = x.path(int(u32(x.raw, r+recHardlink)))
	}
	c := cursor{s: x.heap, off: int(u32(x.raw, r+recDetail))}
	c.detail(&e, flags&flagXattrs != 0)
	return e, !c.bad
}

// WriteTo writes x in the format that ReadIndex reads.
func (x *Index) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, x.raw)
	if err != nil {
		return int64(n), fmt.Errorf("write layer index: %w", err)
	}
	return int64(n), nil
}

// ReadIndex reads what WriteTo wrote, and no byte more. Damaged data is an
// error that wraps ErrCorrupt, or io.ErrUnexpectedEOF where it ends early.
func ReadIndex(r io.Reader) (*Index, error) {
	var b strings.Builder
	if err := copyN(&b, r, headerSize); err != nil {
		return nil, err
	}
	head := b.String()
	if head[:len(magic)] != magic || u32(head, 12) != 0 {
		return nil, fmt.Errorf("read layer index: %w: no header", ErrCorrupt)
	}
	n, heap := uint64(u32(head, 8)), u64(head, 16)
	if heap > math.MaxUint32 || u64(head, 24) > math.MaxInt64 || n == 0 {
		return nil, fmt.Errorf("read layer index: %w: sizes", ErrCorrupt)
	}
	if err := copyN(&b, r, int64(n*recordSize+heap+sumSize)); err != nil {
		return nil, err
	}
	raw := b.String()
	body := len(raw) - sumSize
	if checksum(raw[:body]) != u32(raw, body) {
		return nil, fmt.Errorf("read layer index: %w: checksum differs", ErrCorrupt)
	}
	x := newIndex(raw)
	if err := x.check(); err != nil {
		return nil, fmt.Errorf("read layer index: %w: %w", ErrCorrupt, err)
	}
	return x, nil
}

// copyN reads n bytes, and grows b no faster than data comes.
func copyN(b *strings.Builder, r io.Reader, n int64) error {
	const step = 1 << 20
	for n > 0 {
		k := min(n, step)
		b.Grow(int(k))
		if _, err := io.CopyN(b, r, k); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read layer index: %w", err)
		}
		n -= k
	}
	return nil
}

func checksum(s string) uint32 {
	var buf [64 << 10]byte
	sum := uint32(0)
	for len(s) > 0 {
		k := copy(buf[:], s)
		sum = crc32.Update(sum, castagnoli, buf[:k])
		s = s[k:]
	}
	return sum
}
