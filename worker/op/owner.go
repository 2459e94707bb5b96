package op

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/buildd/buildd/worker/draft"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"
)

// maxUserFile bounds what is read of a tree's passwd and group file.
const maxUserFile = 10 << 20

// opener is a tree or layer that user files are read from.
type opener interface {
	Open(path string) (*os.File, error)
}

// owner looks up whom an action's files are to belong to; nil: as they are. A
// name that is not found stands for root, as with BuildKit.
func (f *fileRun) owner(ctx context.Context, l *openLayer, a *pb.FileAction) (*draft.Owner, error) {
	opt := actionOwner(a)
	if opt == nil {
		return nil, nil
	}
	in := func(n *pb.NamedUserOpt) (opener, error) {
		if n.Input == a.Input {
			return l, nil
		}
		return f.w.Trees.Files(ctx, f.tree(n.Input))
	}
	out := &draft.Owner{}
	switch u := opt.User.GetUser().(type) {
	case *pb.UserOpt_ByID:
		out.UID, out.GID = u.ByID, u.ByID
	case *pb.UserOpt_ByName:
		o, err := in(u.ByName)
		if err != nil {
			return nil, err
		}
		err = readUserFile(o, "/etc/passwd", func(r io.Reader) error {
			users, err := user.ParsePasswdFilter(r, func(x user.User) bool { return x.Name == u.ByName.Name })
			if err == nil && len(users) > 0 {
				out.UID, out.GID = uint32(users[0].Uid), uint32(users[0].Gid)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	switch g := opt.Group.GetUser().(type) {
	case *pb.UserOpt_ByID:
		out.GID = g.ByID
	case *pb.UserOpt_ByName:
		o, err := in(g.ByName)
		if err != nil {
			return nil, err
		}
		err = readUserFile(o, "/etc/group", func(r io.Reader) error {
			groups, err := user.ParseGroupFilter(r, func(x user.Group) bool { return x.Name == g.ByName.Name })
			if err == nil && len(groups) > 0 {
				out.GID = uint32(groups[0].Gid)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readUserFile gives read the file p of o, or nothing if there is none.
func readUserFile(o opener, p string, read func(io.Reader) error) error {
	f, err := o.Open(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := &io.LimitedReader{R: f, N: maxUserFile + 1}
	err = read(r)
	if r.N == 0 {
		return fmt.Errorf("%s has more than %d bytes", p, maxUserFile)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", p, err)
	}
	return nil
}

// execUser is whom a process runs as.
type execUser struct {
	uid, gid uint32
	groups   []uint32 // gid among them
	home     string
}

// lookupUser reads what a Dockerfile's USER has: name or ID, with or without
// :group. The empty string is root.
func lookupUser(o opener, spec string) (execUser, error) {
	var passwd, group []byte
	for p, b := range map[string]*[]byte{"/etc/passwd": &passwd, "/etc/group": &group} {
		err := readUserFile(o, p, func(r io.Reader) (err error) {
			*b, err = io.ReadAll(r)
			return err
		})
		if err != nil {
			return execUser{}, err
		}
	}
	return findUser(spec, passwd, group)
}
