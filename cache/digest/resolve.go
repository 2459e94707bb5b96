package digest

import (
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may go through. Linux stops at 40;
// builders have long allowed 255.
const maxLinks = 255

// walker is a place in a view that is reached without links.
type walker struct {
	at []step // from the root, which is not among them
	v  *View
}

type step struct {
	name string
	node *node // nil if there is no such file
}

// node is the file at w, nil if there is none.
func (w *walker) node() *node {
	if len(w.at) == 0 {
		return w.v.root
	}
	return w.at[len(w.at)-1].node
}

func (w *walker) path() string {
	if len(w.at) == 0 {
		return "/"
	}
	var b strings.Builder
	for _, s := range w.at {
		b.WriteByte('/')
		b.WriteString(s.name)
	}
	return b.String()
}

// walk goes along path from the root. Links are resolved inside the view: an
// absolute one starts at the view's root, and ".." stops there. A missing part
// is gone along by name, so that the path of what is to be created results, and
// so is what follows a file that is no directory, "..", too. The only error is
// ELOOP.
func (v *View) walk(path string, follow bool) (*walker, error) {
	w := &walker{v: v}
	links := 0
	for rest := path; rest != ""; {
		var el string
		el, rest, _ = strings.Cut(rest, "/")
		switch el {
		case "", ".":
			continue
		case "..":
			w.at = w.at[:max(0, len(w.at)-1)]
			continue
		}
		var n *node
		if at := w.node(); at != nil {
			n = v.kid(at, el)
		}
		last := strings.Trim(rest, "/") == ""
		if n == nil || n.dir != nil || last && !follow {
			w.at = append(w.at, step{el, n})
			continue
		}
		e := v.entry(n)
		if !e.IsSymlink() {
			w.at = append(w.at, step{el, n})
			continue
		}
		if links++; links > maxLinks {
			return nil, unix.ELOOP
		}
		if strings.HasPrefix(e.Link, "/") {
			w.at = w.at[:0]
		}
		rest = e.Link + "/" + rest
	}
	return w, nil
}

// Resolve returns the absolute path inside the view that path leads to, with
// followLast also where its last element is a link. What is not there is kept
// as it is written, ".." in it resolved. The only error is a loop (ELOOP).
func (v *View) Resolve(path string, followLast bool) (string, error) {
	w, err := v.walk(path, followLast)
	if err != nil {
		return "", &fs.PathError{Op: "resolve", Path: path, Err: err}
	}
	return w.path(), nil
}
