package digest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Layer is one layer of a chain.
type Layer struct {
	// Dir holds the layer's files in overlay upper format.
	Dir   string
	Index *Index
}

// View is the file system that a chain of layers makes, as overlay would mount
// it: whiteouts hide what lies below them, opaque directories what lies below
// in the same place. It is read from the indexes alone. What the layers have in
// a directory is merged when the directory is first looked into, and kept, so
// all that a View costs over its life is bounded by the entries of its layers,
// however long the chain is. A View is immutable and safe for concurrent use; it
// holds no descriptors.
type View struct {
	layers []Layer
	root   *node
}

// ref is an entry of a layer.
type ref struct{ layer, entry int32 }

// node is a path of the view.
type node struct {
	name string
	top  ref // the entry that is seen
	dir  *dirNode
}

// dirNode is what a directory has beyond other files.
type dirNode struct {
	// parts are the directories that make this one, from the top down.
	parts []ref
	once  sync.Once
	// kids are sorted by name; set by once.
	kids []*node
}

// noLayer marks the root of a view without layers.
const noLayer = -1

// NewView returns the view of layers, bottom first.
func NewView(layers []Layer) *View {
	v := &View{layers: slices.Clone(layers)}
	var parts []ref
	for i := len(layers) - 1; i >= 0; i-- {
		parts = append(parts, ref{layer: int32(i)})
		if layers[i].Index.flags(0)&flagOpaque != 0 {
			break
		}
	}
	v.root = &node{top: ref{layer: noLayer}, dir: &dirNode{parts: parts}}
	if len(parts) > 0 {
		v.root.top = parts[0]
	}
	return v
}

// Layers returns the layers that the view is made of, bottom first.
func (v *View) Layers() []Layer { return slices.Clone(v.layers) }

// kids returns what is in a directory.
func (v *View) kids(n *node) []*node {
	if n.dir == nil {
		return nil
	}
	n.dir.once.Do(func() { n.dir.kids = v.merge(n.dir.parts) })
	return n.dir.kids
}

func (v *View) kid(n *node, name string) *node {
	kids := v.kids(n)
	i, ok := slices.BinarySearchFunc(kids, name, func(k *node, name string) int { return strings.Compare(k.name, name) })
	if !ok {
		return nil
	}
	return kids[i]
}

// merging is a name in a directory while the layers are gone through from the
// top down.
type merging struct {
	node *node // nil if the name is whited out
	open bool  // directories further down still show through
}

func (v *View) merge(parts []ref) []*node {
	if len(parts) == 1 {
		return v.single(parts[0])
	}
	names := map[string]*merging{}
	for _, part := range parts {
		x := v.layers[part.layer].Index
		dir := x.path(int(part.entry))
		for i := range x.children(dir) {
			name := Entry{Path: x.path(i)}.Name()
			r := ref{part.layer, int32(i)}
			m, seen := names[name]
			switch {
			case !seen:
				n, open := v.node(name, r)
				names[name] = &merging{n, open}
			case !m.open:
			case !x.isDir(i):
				m.open = false
			default:
				m.node.dir.parts = append(m.node.dir.parts, r)
				m.open = x.flags(i)&flagOpaque == 0
			}
		}
	}
	kids := make([]*node, 0, len(names))
	for _, m := range names {
		if m.node != nil {
			kids = append(kids, m.node)
		}
	}
	slices.SortFunc(kids, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return kids
}

// single is merge of one directory, whose entries are sorted already.
func (v *View) single(part ref) []*node {
	x := v.layers[part.layer].Index
	var kids []*node
	for i := range x.children(x.path(int(part.entry))) {
		if n, _ := v.node(Entry{Path: x.path(i)}.Name(), ref{part.layer, int32(i)}); n != nil {
			kids = append(kids, n)
		}
	}
	return kids
}

// node returns the node of a name's topmost entry, nil for a whiteout, and
// whether directories below show through.
func (v *View) node(name string, r ref) (n *node, open bool) {
	x := v.layers[r.layer].Index
	flags := x.flags(int(r.entry))
	if flags&flagWhiteout != 0 {
		return nil, false
	}
	n = &node{name: name, top: r}
	if !x.isDir(int(r.entry)) {
		return n, false
	}
	n.dir = &dirNode{parts: []ref{r}}
	return n, flags&flagOpaque == 0
}

// entry is the node's entry as the view has it.
func (v *View) entry(n *node) Entry {
	if n.top.layer == noLayer {
		return defaultRoot()
	}
	e := v.layers[n.top.layer].Index.entry(int(n.top.entry))
	e.Opaque = false // says something about a layer, nothing about a view
	return e
}

func notExist(op, path string) error {
	return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}

// Lstat returns the entry at path. Symbolic links in all but its last element
// are resolved inside the view, so the entry's Path is its place without links.
// A path that is not there gives fs.ErrNotExist.
func (v *View) Lstat(path string) (Entry, error) { return v.stat("lstat", path, false) }

// Stat is Lstat that follows a link in the last element, too.
func (v *View) Stat(path string) (Entry, error) { return v.stat("stat", path, true) }

func (v *View) stat(op, path string, follow bool) (Entry, error) {
	n, err := v.lookup(op, path, follow)
	if err != nil {
		return Entry{}, err
	}
	return v.entry(n), nil
}

func (v *View) lookup(op, path string, follow bool) (*node, error) {
	w, err := v.walk(path, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: path, Err: err}
	}
	n := w.node()
	if n == nil {
		return nil, notExist(op, path)
	}
	return n, nil
}

// ReadDir returns what is in a directory, sorted by name. Links in path are
// followed.
func (v *View) ReadDir(path string) ([]Entry, error) {
	n, err := v.lookup("readdir", path, true)
	if err != nil {
		return nil, err
	}
	if n.dir == nil {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: unix.ENOTDIR}
	}
	kids := v.kids(n)
	out := make([]Entry, len(kids))
	for i, k := range kids {
		out[i] = v.entry(k)
	}
	return out, nil
}

// HostPath returns where the file at path lies on disk, the last element not
// followed: the directory of the topmost layer that has it, and its path there.
// Of a directory that several layers make it is the topmost one's part.
func (v *View) HostPath(path string) (string, error) {
	n, err := v.lookup("hostpath", path, false)
	if err != nil {
		return "", err
	}
	if n.top.layer == noLayer {
		return "", notExist("hostpath", path)
	}
	return filepath.Join(v.layers[n.top.layer].Dir, v.entry(n).Path), nil
}

// Open opens a regular file for reading, links followed inside the view. On
// disk it is opened beneath its layer's directory, and no link is followed
// there, whatever has become of the directory since it was indexed.
func (v *View) Open(path string) (*os.File, error) {
	n, err := v.lookup("open", path, true)
	if err != nil {
		return nil, err
	}
	e := v.entry(n)
	if !e.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: not a regular file", unix.EINVAL)}
	}
	fail := func(err error) (*os.File, error) { return nil, &fs.PathError{Op: "open", Path: path, Err: err} }
	dir := v.layers[n.top.layer].Dir
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(root)
	fd, err := openBeneath(root, e.Path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return fail(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return fail(fmt.Errorf("%s is not the regular file that was indexed", filepath.Join(dir, e.Path)))
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, e.Path)), nil
}

// Walk calls fn for root and all below it, a directory before what is in it and
// that sorted by name. Paths begin with root's own, resolved but for a link in
// its last element; links are not followed. fs.SkipDir and fs.SkipAll from fn
// mean what they mean to fs.WalkDir.
func (v *View) Walk(root string, fn func(path string, e Entry) error) error {
	w, err := v.walk(root, false)
	if err != nil {
		return &fs.PathError{Op: "walk", Path: root, Err: err}
	}
	if w.node() == nil {
		return notExist("walk", root)
	}
	err = v.walkNode(w.path(), w.node(), fn)
	if err == fs.SkipDir || err == fs.SkipAll {
		return nil
	}
	return err
}

func (v *View) walkNode(path string, n *node, fn func(path string, e Entry) error) error {
	if err := fn(path, v.entry(n)); err != nil {
		if err == fs.SkipDir && n.dir != nil {
			return nil
		}
		return err
	}
	for _, k := range v.kids(n) {
		sub := path + "/" + k.name
		if path == "/" {
			sub = "/" + k.name
		}
		if err := v.walkNode(sub, k, fn); err != nil {
			if err == fs.SkipDir { // of a file: the rest of this directory
				return nil
			}
			return err
		}
	}
	return nil
}
