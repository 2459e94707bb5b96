package llb

import (
	"fmt"
	"strings"

	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/solver/pb"
)

// customName is the key that BuildKit's client/llb keeps a step's name under.
const customName = "llb.customname"

// name says what progress calls a step.
func name(def *pb.Op, meta *pb.OpMetadata) string {
	if n, ok := meta.GetDescription()[customName]; ok {
		return n
	}
	switch x := def.Op.(type) {
	case *pb.Op_Source:
		return x.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(x.Exec.Meta.Args, " ")
	case *pb.Op_File:
		var names []string
		for _, a := range x.File.Actions {
			names = append(names, actionName(a))
		}
		return strings.Join(names, ", ")
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	case *pb.Op_Passthrough:
		return "passthrough"
	default:
		return "unknown"
	}
}

func actionName(a *pb.FileAction) string {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return fmt.Sprintf("copy %s %s", x.Copy.Src, x.Copy.Dest)
	case *pb.FileAction_Mkdir:
		return "mkdir " + x.Mkdir.Path
	case *pb.FileAction_Mkfile:
		return "mkfile " + x.Mkfile.Path
	case *pb.FileAction_Rm:
		return "rm " + x.Rm.Path
	case *pb.FileAction_Symlink:
		return fmt.Sprintf("symlink %s -> %s", x.Symlink.Newpath, x.Symlink.Oldpath)
	default:
		return "unknown"
	}
}

// stepName names a step across builds: its place within its stage, as in
// "[build 2", without the number of steps and the command, so that a step whose
// command changed is still the same step.
func stepName(name string) string {
	if strings.HasPrefix(name, "[") {
		if in, _, ok := strings.Cut(name, "]"); ok && !strings.HasPrefix(in, "[internal") {
			place, _, _ := strings.Cut(in, "/")
			return place
		}
	}
	return name
}

func scheme(identifier string) string {
	s, _, _ := strings.Cut(identifier, "://")
	return s
}

// Parts implements solver.Op.
func (o *Op) Parts() []solver.Part {
	var ps []solver.Part
	add := func(n, v string) { ps = append(ps, solver.Part{Name: n, Value: v}) }
	switch x := o.Def.Op.(type) {
	case *pb.Op_Source:
		add("source", x.Source.Identifier)
		if p := o.Pin(); p != nil {
			add("pinned to", p.PinKey())
		}
	case *pb.Op_Exec:
		add("command", strings.Join(x.Exec.Meta.Args, " "))
		add("user", x.Exec.Meta.User)
		add("working directory", x.Exec.Meta.Cwd)
		for _, e := range x.Exec.Meta.Env {
			k, v, _ := strings.Cut(e, "=")
			add("variable "+k, v)
		}
		for _, m := range x.Exec.Mounts {
			add("mount "+m.Dest, m.String())
		}
		add("network", x.Exec.Network.String())
		add("security", x.Exec.Security.String())
	case *pb.Op_File:
		for i, a := range x.File.Actions {
			add(fmt.Sprintf("action %d", i), actionName(a))
		}
	}
	return append(ps, solver.Part{Name: "definition", Value: o.digest.String()})
}
