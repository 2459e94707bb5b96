package lower

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
)

const windows = "windows"

// A path in a Dockerfile is one of the system that the image is for. On Windows both slashes separate, a drive letter must be
// that of the system drive and means nothing more.

// cleanPath makes p absolute below dir, with forward slashes. With keep, a trailing slash or "/." stays, which tell COPY that
// the destination is a directory.
func cleanPath(dir, p, os string, keep bool) (string, error) {
	written := toSlash(p, os)
	dir, err := withoutDrive(toSlash(dir, os), os, keep)
	if err != nil {
		return "", err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", dir)
	}
	out, err := withoutDrive(written, os, keep)
	if err != nil {
		return "", err
	}
	switch {
	case out == "":
		out = dir
	case !path.IsAbs(out):
		out = path.Join(dir, out)
	}
	if !keep {
		return out, nil
	}
	switch {
	case strings.HasSuffix(written, "/") && !strings.HasSuffix(out, "/"):
		out += "/"
	case strings.HasSuffix(written, "/.") && !strings.HasSuffix(out, "/."):
		out = strings.TrimSuffix(out, "/") + "/."
	}
	return out, nil
}

// withoutDrive takes the drive letter off a path for Windows and leaves any other path alone.
func withoutDrive(p, os string, keep bool) (string, error) {
	if os != windows {
		return p, nil
	}
	p = toSlash(p, os)
	if strings.HasPrefix(p, "//") {
		return "", fmt.Errorf("path %q: UNC paths are not supported", p)
	}
	if drive, rest, ok := strings.Cut(p, ":"); ok {
		if rest == "" {
			return "", fmt.Errorf("path %q: no path after the drive letter", p)
		}
		if !strings.EqualFold(drive, "c") {
			return "", fmt.Errorf("path %q is not on the system drive (C:)", p)
		}
		p = rest
	}
	if p == "" {
		return "", nil
	}
	out := path.Clean(p)
	if keep && len(out) > 1 && strings.HasSuffix(p, "/") {
		out += "/"
	}
	return out, nil
}

func isAbs(p, os string) bool {
	p, err := withoutDrive(p, os, false)
	return err == nil && path.IsAbs(p)
}

func toSlash(p, os string) string {
	if os == windows {
		return strings.ReplaceAll(p, `\`, "/")
	}
	return p
}

func fromSlash(p, os string) string {
	if os == windows {
		return strings.ReplaceAll(p, "/", `\`)
	}
	return p
}

// usedPaths are the paths that are read of a context or stage. Nil is none; "/" is all.
type usedPaths struct {
	set map[string]struct{}
}

func (u *usedPaths) add(p string) {
	if u.set == nil {
		u.set = map[string]struct{}{}
	}
	u.set[path.Join("/", p)] = struct{}{}
}

func (u *usedPaths) none() bool { return len(u.set) == 0 }

func (u *usedPaths) addAll() { u.add("/") }

// localOptions narrow a local source to the used paths; there is nothing to narrow if all are used, or none.
func (u *usedPaths) localOptions() []llb.LocalOption {
	if _, all := u.set["/"]; all || len(u.set) == 0 {
		return nil
	}
	list := make([]string, 0, len(u.set))
	for p := range u.set {
		list = append(list, strings.TrimPrefix(p, "/"))
	}
	slices.Sort(list)
	return []llb.LocalOption{llb.FollowPaths(list)}
}
