package op

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildd/buildd/worker/mount"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// planCwd sees to it that the working directory exists. One that is missing is
// made for the user: in what the step writes if it can, which makes it a part of
// the output as with BuildKit, else only for this step. What planCwd returns, if
// anything, is called when all is mounted.
func (s *sandbox) planCwd(cwd string, user execUser) (func() error, error) {
	t, in, err := s.layout.find(cwd)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return s.planCwdInMount(cwd, user)
	}
	e, err := t.view.Lstat(in)
	switch {
	case err == nil && !isDir(e):
		return nil, errors.New("is not a directory")
	case err == nil:
		return nil, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case t.writable:
		return func() error { return mkdirAll(t.dir, in, user) }, nil
	case t.dir != "": // too late to prepare it
		return nil, nil
	default:
		return nil, t.need(stub{path: in, isDir: true, uid: user.uid, gid: user.gid})
	}
}

// planCwdInMount is planCwd for what is mounted but no tree.
func (s *sandbox) planCwdInMount(cwd string, user execUser) (func() error, error) {
	cwd, err := s.root().view.Resolve(cwd, true)
	if err != nil {
		return nil, err
	}
	for i := len(s.mounts) - 1; i >= 0; i-- { // a later one lies on top
		p := &s.mounts[i]
		rest, ok := strings.CutPrefix(cwd, p.Destination)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		if rest == "" || p.m == nil || p.m.Readonly || !p.isDir {
			return nil, nil
		}
		if p.m.MountType == pb.MountType_TMPFS { // mounted here, so that there is something to make it in
			t, err := mount.NewTmpfs(filepath.Join(s.dir, "tmpfs"), p.m.TmpfsOpt.GetSize())
			if err != nil {
				return nil, err
			}
			s.onClose(t.Close)
			p.Mount = bindMount(p.Destination, t.Path, false)
			p.Options = append(p.Options, "nosuid")
		}
		return func() error { return mkdirAll(p.Source, rest, user) }, nil
	}
	return nil, nil
}

// mkdirAll makes the directory p within root, and those on the way that are
// missing. It follows no links: others may be changing root.
func mkdirAll(root, p string, user execUser) error {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	for _, name := range elements(p) {
		err := unix.Mkdirat(dir, name, 0o755)
		made := err == nil
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		next, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		unix.Close(dir)
		dir = next
		if !made {
			continue
		}
		if err := os.NewSyscallError("chown", unix.Fchown(dir, int(user.uid), int(user.gid))); err != nil {
			return err
		}
		if err := os.NewSyscallError("chmod", unix.Fchmod(dir, 0o755)); err != nil {
			return err
		}
	}
	return nil
}
