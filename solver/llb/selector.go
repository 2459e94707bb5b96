package llb

import (
	"fmt"
	"path"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/moby/buildkit/solver/pb"
)

// maxActions bounds the actions of one FileOp and the mounts of one ExecOp.
const maxActions = 10_000

// execSelectors finds out which files of each input an ExecOp sees: all of an
// input that it may write to, or else what its read-only mounts select.
func (o *Op) execSelectors(x *pb.ExecOp) error {
	if x == nil || x.Meta == nil || len(x.Meta.Args) == 0 {
		return fmt.Errorf("an exec has no arguments")
	}
	if len(x.Mounts) > maxActions {
		return fmt.Errorf("an exec has %d mounts: at most %d are allowed", len(x.Mounts), maxActions)
	}
	parts := make([]picked, len(o.selectors))
	for _, m := range x.Mounts {
		if m.Output < pbNone || m.Output > int64(len(x.Mounts)) {
			return fmt.Errorf("mount %s has output %d of %d mounts", m.Dest, m.Output, len(x.Mounts))
		}
		if m.Input == pbNone {
			continue
		}
		if m.Input < 0 || m.Input >= int64(len(parts)) {
			return fmt.Errorf("mount %s is made of input %d: the op has %d inputs", m.Dest, m.Input, len(parts))
		}
		p := &parts[m.Input]
		if (m.Readonly || m.Output == pbNone) && m.Dest != pb.RootMount && path.Clean("/"+m.Selector) != "/" {
			p.add(digest.Select{Path: path.Clean("/" + m.Selector), FollowLinks: true})
		} else {
			p.all = true
		}
	}
	o.choose(parts)
	return nil
}

// fileSelectors finds out which files of each input a FileOp sees: all of an
// input that is written over, as links in it lead the way, else what is copied.
func (o *Op) fileSelectors(x *pb.FileOp) error {
	if x == nil || len(x.Actions) == 0 || len(x.Actions) > maxActions {
		return fmt.Errorf("a file op has %d actions: at least 1 and at most %d are allowed", len(x.GetActions()), maxActions)
	}
	parts := make([]picked, len(o.selectors))
	for i, a := range x.Actions {
		if a.Input < pbNone || a.SecondaryInput < pbNone || a.Input >= int64(len(parts)+i) || a.SecondaryInput >= int64(len(parts)+i) {
			return fmt.Errorf("action %d of a file op has inputs %d and %d of %d", i, a.Input, a.SecondaryInput, len(parts)+i)
		}
		if a.Output < pbNone || a.Output >= int64(len(x.Actions)) {
			return fmt.Errorf("action %d of a file op has output %d of %d", i, a.Output, len(x.Actions))
		}
		if a.Input >= 0 && a.Input < int64(len(parts)) {
			parts[a.Input].all = true
		}
		for _, u := range owners(a) {
			if u >= 0 && u < int64(len(parts)) {
				parts[u].add(digest.Select{Path: "/etc/passwd", FollowLinks: true, Wildcard: true})
				parts[u].add(digest.Select{Path: "/etc/group", FollowLinks: true, Wildcard: true})
			}
		}
		c := a.GetCopy()
		if c == nil || a.SecondaryInput < 0 || a.SecondaryInput >= int64(len(parts)) {
			continue
		}
		parts[a.SecondaryInput].add(digest.Select{
			Path: path.Clean("/" + c.Src), FollowLinks: c.FollowSymlink, Wildcard: c.AllowWildcard,
			Include: c.IncludePatterns, Exclude: c.ExcludePatterns, Contents: c.DirCopyContents,
		})
		for _, r := range c.RequiredPaths { // an error names them if they are not there
			parts[a.SecondaryInput].add(digest.Select{Path: path.Clean("/" + r), Wildcard: c.AllowWildcard})
		}
	}
	o.choose(parts)
	return nil
}

// owners returns the inputs in which owners are looked up by name.
func owners(a *pb.FileAction) []int64 {
	var c *pb.ChownOpt
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		c = x.Copy.GetOwner()
	case *pb.FileAction_Mkdir:
		c = x.Mkdir.GetOwner()
	case *pb.FileAction_Mkfile:
		c = x.Mkfile.GetOwner()
	case *pb.FileAction_Symlink:
		c = x.Symlink.GetOwner()
	}
	var in []int64
	for _, u := range []*pb.UserOpt{c.GetUser(), c.GetGroup()} {
		if n := u.GetByName(); n != nil {
			in = append(in, n.Input)
		}
	}
	return in
}

// picked is what is seen of one input.
type picked struct {
	all bool
	sel digest.Selection
}

func (p *picked) add(s digest.Select) { p.sel.Paths = append(p.sel.Paths, s) }

func (o *Op) choose(parts []picked) {
	for i, p := range parts {
		if !p.all && len(p.sel.Paths) > 0 {
			o.selectors[i] = p.sel.Selector()
		} else {
			o.selectors[i] = cache.Root
		}
	}
}

// pbNone stands in LLB for an input or output that there is not.
const pbNone = -1
