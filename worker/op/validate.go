package op

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// none stands in LLB for an input or output that there is not.
const none = -1

// Limits on what one op may ask for; far beyond what a Dockerfile compiles to.
const (
	maxMounts  = 10_000
	maxActions = 10_000
	maxArgs    = 1 << 20 // bytes of arguments and of environment each; execve allows not much more
	maxPath    = 4096    // PATH_MAX
	maxName    = 256     // IDs of secrets and agents
	maxUser    = 1024
	maxData    = 64 << 20 // of one mkfile; the gRPC message is limited to 16 MiB already
)

// Validate checks all fields of an op that the worker runs, as a client sent
// it: indexes, names, paths, modes, sizes. Exec and File of a Worker run nothing
// that has not passed.
func Validate(op *pb.Op) error {
	if op == nil {
		return errors.New("op is empty")
	}
	inputs := int64(len(op.Inputs))
	var err error
	switch x := op.Op.(type) {
	case *pb.Op_Exec:
		err = validateExec(x.Exec, inputs)
	case *pb.Op_File:
		err = validateFile(x.File, inputs)
	case *pb.Op_Merge:
		err = validateMerge(x.Merge, inputs)
	case *pb.Op_Diff:
		err = validateDiff(x.Diff, inputs)
	case *pb.Op_Passthrough:
		err = validatePassthrough(x.Passthrough, inputs)
	default:
		return fmt.Errorf("op of type %T cannot be run by a worker: want exec, file, merge, diff or passthrough", op.Op)
	}
	return err
}

// input checks an index of an input that may be absent.
func input(i, inputs int64) error {
	if i < none || i >= inputs {
		return fmt.Errorf("input %d of %d", i, inputs)
	}
	return nil
}

func validateMerge(m *pb.MergeOp, inputs int64) error {
	if m == nil || len(m.Inputs) == 0 {
		return errors.New("merge has no inputs")
	}
	for i, in := range m.Inputs {
		if in == nil {
			return fmt.Errorf("merge input %d is empty", i)
		}
		if err := input(in.Input, inputs); err != nil {
			return fmt.Errorf("merge input %d: %w", i, err)
		}
	}
	return nil
}

func validateDiff(d *pb.DiffOp, inputs int64) error {
	if d == nil || d.Lower == nil || d.Upper == nil {
		return errors.New("diff needs a lower and an upper input")
	}
	if err := input(d.Lower.Input, inputs); err != nil {
		return fmt.Errorf("diff lower: %w", err)
	}
	if err := input(d.Upper.Input, inputs); err != nil {
		return fmt.Errorf("diff upper: %w", err)
	}
	return nil
}

func validatePassthrough(p *pb.PassthroughOp, inputs int64) error {
	if p == nil || len(p.Outputs) == 0 {
		return errors.New("passthrough has no outputs")
	}
	for i, in := range p.Outputs {
		if in < 0 || in >= inputs {
			return fmt.Errorf("passthrough output %d: input %d of %d", i, in, inputs)
		}
	}
	return nil
}

// checkPath checks a path that a client sent: any path is fine that the kernel
// could take, as it is resolved inside a tree.
func checkPath(what, p string) error {
	switch {
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("%s %q has a zero byte", what, p)
	case len(p) > maxPath:
		return fmt.Errorf("%s of %d bytes: a path has at most %d", what, len(p), maxPath)
	}
	for _, name := range strings.Split(p, "/") {
		if len(name) > 255 {
			return fmt.Errorf("%s %.40q...: an element of a path has at most 255 bytes", what, name)
		}
	}
	return nil
}

// checkName checks an identifier that is passed on to the client.
func checkName(what, s string, max int) error {
	if len(s) > max {
		return fmt.Errorf("%s of %d bytes: at most %d are allowed", what, len(s), max)
	}
	if strings.ContainsAny(s, "\x00\n\r") {
		return fmt.Errorf("%s %q has a line break or a zero byte", what, s)
	}
	return nil
}

// outputs checks that the indexes are 0 to n-1, each once; none does not count.
type outputs struct {
	seen map[int64]bool
	max  int64
}

func (o *outputs) add(i int64, limit int) error {
	if i == none {
		return nil
	}
	if i < 0 || i >= int64(limit) {
		return fmt.Errorf("output %d of at most %d", i, limit)
	}
	if o.seen[i] {
		return fmt.Errorf("output %d is given twice", i)
	}
	if o.seen == nil {
		o.seen = map[int64]bool{}
	}
	o.seen[i] = true
	o.max = max(o.max, i+1)
	return nil
}

func (o *outputs) check() error {
	if int64(len(o.seen)) != o.max {
		return fmt.Errorf("%d outputs are given, but the highest is %d: want all of 0 to %d", len(o.seen), o.max-1, o.max-1)
	}
	return nil
}

func clean(p string) string { return path.Clean("/" + p) }
