package debug

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

func dumpLLB() *cobra.Command {
	var dot bool
	cmd := &cobra.Command{Use: "dump-llb [FILE]", Short: "Print LLB, from a file or standard input, as JSON or a graph", Args: cobra.MaximumNArgs(1)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in := cmd.InOrStdin()
		if len(args) == 1 && args[0] != "-" {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in = f
		}
		ops, err := readOps(in)
		if err != nil {
			return err
		}
		if dot {
			return printDot(cmd.OutOrStdout(), ops)
		}
		enc := json.NewEncoder(cmd.OutOrStdout())
		for _, o := range ops {
			if err := enc.Encode(o); err != nil {
				return err
			}
		}
		return nil
	}
	cmd.Flags().BoolVar(&dot, "dot", false, "print a graph for Graphviz")
	return cmd
}

type op struct {
	Op         *pb.Op
	Digest     digest.Digest
	OpMetadata *pb.OpMetadata
}

func readOps(in io.Reader) ([]op, error) {
	def, err := llb.ReadFrom(in)
	if err != nil {
		return nil, fmt.Errorf("read LLB: %w", err)
	}
	out := make([]op, len(def.Def))
	for i, b := range def.Def {
		var o pb.Op
		if err := o.UnmarshalVT(b); err != nil {
			return nil, fmt.Errorf("read LLB: op %d: %w", i, err)
		}
		d := digest.FromBytes(b)
		out[i] = op{Op: &o, Digest: d, OpMetadata: def.Metadata[d].ToPB()}
	}
	return out, nil
}

func printDot(w io.Writer, ops []op) error {
	fmt.Fprintln(w, "digraph {")
	for _, o := range ops {
		label, shape := node(o)
		fmt.Fprintf(w, "  %q [label=%q shape=%q];\n", o.Digest, label, shape)
	}
	for _, o := range ops {
		for i, in := range o.Op.Inputs {
			fmt.Fprintf(w, "  %q -> %q [label=%q];\n", in.Digest, o.Digest, mountOf(o.Op, i))
		}
	}
	_, err := fmt.Fprintln(w, "}")
	return err
}

// mountOf says where an exec op mounts an input.
func mountOf(o *pb.Op, input int) string {
	for _, m := range o.GetExec().GetMounts() {
		if int(m.Input) == input && m.Dest != "/" {
			return m.Dest
		}
	}
	return ""
}

func node(o op) (label, shape string) {
	switch x := o.Op.Op.(type) {
	case *pb.Op_Source:
		return x.Source.Identifier, "ellipse"
	case *pb.Op_Exec:
		return strings.Join(x.Exec.Meta.GetArgs(), " "), "box"
	case *pb.Op_Build:
		return "build", "box3d"
	case *pb.Op_Merge:
		return "merge", "invtriangle"
	case *pb.Op_Diff:
		return "diff", "doublecircle"
	case *pb.Op_File:
		names := make([]string, len(x.File.Actions))
		for i, a := range x.File.Actions {
			names[i] = action(a)
		}
		return strings.Join(names, ","), "note"
	default: // the definition's end
		return o.Digest.String(), "plaintext"
	}
}

func action(a *pb.FileAction) string {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		return fmt.Sprintf("copy{src=%s, dest=%s}", a.Copy.Src, a.Copy.Dest)
	case *pb.FileAction_Mkfile:
		return fmt.Sprintf("mkfile{path=%s}", a.Mkfile.Path)
	case *pb.FileAction_Mkdir:
		return fmt.Sprintf("mkdir{path=%s}", a.Mkdir.Path)
	case *pb.FileAction_Rm:
		return fmt.Sprintf("rm{path=%s}", a.Rm.Path)
	case *pb.FileAction_Symlink:
		return fmt.Sprintf("symlink{oldpath=%s, newpath=%s}", a.Symlink.Oldpath, a.Symlink.Newpath)
	default:
		return fmt.Sprintf("%T", a)
	}
}
