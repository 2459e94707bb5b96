package digest

import (
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/buildd/buildd/cache"
)

// Index lists what a layer holds, sorted by path. It is immutable, and safe for
// concurrent use. A Builder, Scan or ReadIndex makes one.
type Index struct {
	raw  string // the whole file, see encode.go
	heap string // its part
	n    int

	once    sync.Once
	content cache.Key // set by once
}

// Len is the number of entries, the root included.
func (x *Index) Len() int { return x.n }

// Size is the number of bytes in regular files, those of a hard link once.
func (x *Index) Size() int64 { return int64(u64(x.raw, 24)) }

// Entries returns all entries in the byte order of their paths: a directory
// comes before what is in it. The root is the first.
func (x *Index) Entries() []Entry {
	return slices.AppendSeq(make([]Entry, 0, x.n), x.All())
}

// All is Entries without the slice.
func (x *Index) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for i := range x.n {
			if !yield(x.entry(i)) {
				return
			}
		}
	}
}

// Lookup returns the entry of a clean relative path; "" is the root. Symbolic
// links are not followed.
func (x *Index) Lookup(path string) (Entry, bool) {
	i, ok := x.find(path, x.n)
	if !ok {
		return Entry{}, false
	}
	return x.entry(i), true
}

// Children returns the entries that lie directly in a directory, sorted;
// whiteouts are among them.
func (x *Index) Children(path string) []Entry {
	var out []Entry
	for i := range x.children(path) {
		out = append(out, x.entry(i))
	}
	return out
}

func (x *Index) path(i int) string {
	r := headerSize + i*recordSize
	off := int(u32(x.raw, r+recPath))
	return x.heap[off : off+int(u16(x.raw, r+recPathLen))]
}

func (x *Index) mode(i int) uint32 { return u32(x.raw, headerSize+i*recordSize+recMode) }

func (x *Index) flags(i int) uint16 { return u16(x.raw, headerSize+i*recordSize+recFlags) }

func (x *Index) isDir(i int) bool { return Entry{Mode: x.mode(i)}.IsDir() }

// lower returns the number of the first entry in [from, to) whose path is not
// less than path.
func (x *Index) lower(path string, from, to int) int {
	for from < to {
		m := int(uint(from+to) >> 1)
		if x.path(m) < path {
			from = m + 1
		} else {
			to = m
		}
	}
	return from
}

// find looks for path among the first n entries.
func (x *Index) find(path string, n int) (int, bool) {
	i := x.lower(path, 0, n)
	return i, i < n && x.path(i) == path
}

// children yields the numbers of the entries directly in the directory dir.
// Byte order puts what is in a child anywhere behind it ("a", "a-b", "a/c"), so
// that part is leapt over where it is met.
func (x *Index) children(dir string) iter.Seq[int] {
	return func(yield func(int) bool) {
		prefix := dir
		i := 1 // the root is not its own child
		if dir != "" {
			prefix += "/"
			i = x.lower(prefix, 0, x.n)
		}
		for i < x.n {
			p := x.path(i)
			if !strings.HasPrefix(p, prefix) {
				return
			}
			slash := strings.IndexByte(p[len(prefix):], '/')
			if slash < 0 {
				if !yield(i) {
					return
				}
				i++
				continue
			}
			i = x.lower(p[:len(prefix)+slash]+"0", i, x.n) // '0' is the byte after '/'
		}
	}
}
