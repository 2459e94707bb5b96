package explain

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"golang.org/x/sys/unix"
)

const (
	// maxFiles is how many files a cause names.
	maxFiles = 10
	// maxChanges is how many are counted.
	maxChanges = 10_000
	// diffTime bounds the comparison of two trees.
	diffTime = 2 * time.Second
)

// errEnough ends a comparison that has found more than is told.
var errEnough = errors.New("there are more changes than are counted")

// files names the files that two trees differ in. relative leaves the slash in
// front of paths out. The error says that the trees cannot be compared.
func (x *Explainer) files(ctx context.Context, old, new cache.Tree, sel cache.Selector, relative bool) (files []*explainv1.File, more int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	n := 0
	err = x.Trees.Changes(ctx, old, new, sel, func(c digest.Change) error {
		if n++; n > maxChanges {
			return errEnough
		}
		if len(files) < maxFiles {
			if relative {
				c.Path = strings.TrimPrefix(c.Path, "/")
			}
			files = append(files, file(c))
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return files, int32(n - len(files)), err
}

func file(c digest.Change) *explainv1.File {
	f := &explainv1.File{Path: strings.ToValidUTF8(c.Path, "\uFFFD")}
	switch {
	case c.Old == nil:
		f.Change = explainv1.Change_CHANGE_ADDED
	case c.New == nil:
		f.Change = explainv1.Change_CHANGE_REMOVED
	default:
		f.Change = explainv1.Change_CHANGE_CHANGED
		f.How = how(c.Old, c.New)
	}
	return f
}

// how says in what two entries differ.
func how(a, b *digest.Entry) []string {
	if a.Mode&unix.S_IFMT != b.Mode&unix.S_IFMT {
		return []string{fmt.Sprintf("%s -> %s", fileType(a), fileType(b))}
	}
	var out []string
	if a.Hash != b.Hash {
		out = append(out, "content")
	}
	if a.Link != b.Link {
		out = append(out, fmt.Sprintf("target %q -> %q", cut(a.Link, maxShown), cut(b.Link, maxShown)))
	}
	if a.Mode != b.Mode {
		out = append(out, fmt.Sprintf("mode %04o -> %04o", a.Mode&0o7777, b.Mode&0o7777))
	}
	if a.UID != b.UID || a.GID != b.GID {
		out = append(out, fmt.Sprintf("owner %d:%d -> %d:%d", a.UID, a.GID, b.UID, b.GID))
	}
	if a.Major != b.Major || a.Minor != b.Minor {
		out = append(out, fmt.Sprintf("device %d:%d -> %d:%d", a.Major, a.Minor, b.Major, b.Minor))
	}
	if !maps.Equal(a.Xattrs, b.Xattrs) {
		out = append(out, "extended attributes")
	}
	return out
}

func fileType(e *digest.Entry) string {
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	default:
		return "device"
	}
}
