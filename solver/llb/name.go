package llb

import (
	"fmt"
	"strings"

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

func scheme(identifier string) string {
	s, _, _ := strings.Cut(identifier, "://")
	return s
}
