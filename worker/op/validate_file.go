package op

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
)

func validateFile(x *pb.FileOp, inputs int64) error {
	if x == nil || len(x.Actions) == 0 {
		return errors.New("file op has no actions")
	}
	if len(x.Actions) > maxActions {
		return fmt.Errorf("file op has %d actions: at most %d are allowed", len(x.Actions), maxActions)
	}
	outs := outputs{}
	for i, a := range x.Actions {
		if a == nil {
			return fmt.Errorf("file action %d is empty", i)
		}
		err := validateAction(a, inputs+int64(len(x.Actions)))
		if err == nil {
			err = outs.add(a.Output, len(x.Actions))
		}
		if err != nil {
			return fmt.Errorf("file action %d: %w", i, err)
		}
	}
	if outs.max == 0 {
		return errors.New("file op has no outputs")
	}
	if err := outs.check(); err != nil {
		return fmt.Errorf("file op: %w", err)
	}
	_, err := planFile(x.Actions, int(inputs))
	return err
}

func validateAction(a *pb.FileAction, inputs int64) error {
	if err := input(a.Input, inputs); err != nil {
		return err
	}
	if err := input(a.SecondaryInput, inputs); err != nil {
		return fmt.Errorf("secondary %w", err)
	}
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return validateCopy(x.Copy, inputs)
	case *pb.FileAction_Mkfile:
		if x.Mkfile == nil {
			return errors.New("mkfile is empty")
		}
		if len(x.Mkfile.Data) > maxData {
			return fmt.Errorf("mkfile %s of %d bytes: at most %d are allowed", x.Mkfile.Path, len(x.Mkfile.Data), maxData)
		}
		return validateNew("mkfile", x.Mkfile.Path, x.Mkfile.Timestamp, x.Mkfile.Owner, inputs)
	case *pb.FileAction_Mkdir:
		if x.Mkdir == nil {
			return errors.New("mkdir is empty")
		}
		return validateNew("mkdir", x.Mkdir.Path, x.Mkdir.Timestamp, x.Mkdir.Owner, inputs)
	case *pb.FileAction_Symlink:
		if x.Symlink == nil || x.Symlink.Oldpath == "" {
			return errors.New("symlink has no target")
		}
		if err := checkPath("symlink target", x.Symlink.Oldpath); err != nil {
			return err
		}
		return validateNew("symlink", x.Symlink.Newpath, x.Symlink.Timestamp, x.Symlink.Owner, inputs)
	case *pb.FileAction_Rm:
		if x.Rm == nil || clean(x.Rm.Path) == "/" {
			return errors.New("rm: the root directory cannot be removed")
		}
		return checkPath("rm path", x.Rm.Path)
	default:
		return fmt.Errorf("file action of type %T is unknown: want copy, mkfile, mkdir, symlink or rm", a.Action)
	}
}

func validateCopy(c *pb.FileActionCopy, inputs int64) error {
	if c == nil {
		return errors.New("copy is empty")
	}
	if err := checkPath("copy source", c.Src); err != nil {
		return err
	}
	if c.ModeStr != "" {
		if _, err := parseMode(c.ModeStr); err != nil {
			return err
		}
	}
	for _, list := range [][]string{c.IncludePatterns, c.ExcludePatterns, c.RequiredPaths} {
		for _, p := range list {
			if err := checkPath("pattern", p); err != nil {
				return err
			}
		}
	}
	return validateNew("copy", c.Dest, c.Timestamp, c.Owner, inputs)
}

// validateNew checks what all actions have that write. Of a mode only the bits
// count that a mode has; -1 stands for the source's.
func validateNew(what, p string, timestamp int64, owner *pb.ChownOpt, inputs int64) error {
	if err := checkPath(what+" path", p); err != nil {
		return err
	}
	if timestamp < -1 {
		return fmt.Errorf("%s %s: timestamp %d: want nanoseconds since 1970, or -1", what, p, timestamp)
	}
	for _, u := range []*pb.UserOpt{owner.GetUser(), owner.GetGroup()} {
		x, ok := u.GetUser().(*pb.UserOpt_ByName)
		if !ok {
			continue
		}
		if x.ByName == nil || x.ByName.Name == "" {
			return fmt.Errorf("%s %s: owner has no name", what, p)
		}
		if err := checkName("owner", x.ByName.Name, maxUser); err != nil {
			return err
		}
		if x.ByName.Input < 0 || x.ByName.Input >= inputs {
			return fmt.Errorf("%s %s: owner %q is looked up in input %d of %d", what, p, x.ByName.Name, x.ByName.Input, inputs)
		}
	}
	return nil
}
