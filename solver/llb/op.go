package llb

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// Op is a checked LLB op. It implements solver.Op.
type Op struct {
	// Def must not be changed.
	Def *pb.Op
	// Resources limit what an ExecOp may use; they do not count for its key.
	Resources *pb.LinuxResources

	digest    cache.Key // of all but a source
	selectors []cache.Selector
	pinner    Pinner

	mu  sync.Mutex // guards pin
	pin Pin
}

func newOp(def *pb.Op, meta *pb.OpMetadata, p Pinner) (*Op, error) {
	op := &Op{Def: def, Resources: meta.GetLinuxResources(), pinner: p, selectors: make([]cache.Selector, len(def.Inputs))}
	for i := range op.selectors {
		op.selectors[i] = cache.Root
	}
	var err error
	switch x := def.Op.(type) {
	case *pb.Op_Source:
		if x.Source == nil || len(def.Inputs) > 0 {
			err = errors.New("a source has no inputs")
		}
	case *pb.Op_Exec:
		err = op.execSelectors(x.Exec)
	case *pb.Op_File:
		err = op.fileSelectors(x.File)
	case *pb.Op_Merge, *pb.Op_Diff, *pb.Op_Passthrough:
	default:
		err = fmt.Errorf("%T is no op that buildd knows", def.Op)
	}
	if err != nil {
		return nil, err
	}
	op.digest, err = canonical(def)
	return op, err
}

// Digest implements solver.Op. A source is pinned on the first call.
func (o *Op) Digest(ctx context.Context, _ *solver.Build, v *solver.Vertex) (cache.Key, error) {
	src := o.Def.GetSource()
	if src == nil {
		return o.digest, nil
	}
	p := o.Pin()
	if p == nil {
		var err error
		if p, err = o.pinner.Pin(ctx, v, src, o.Def.Platform); err != nil {
			return cache.Key{}, err
		}
		o.mu.Lock()
		o.pin = p
		o.mu.Unlock()
	}
	return cache.Hash("source", []byte(p.PinKey())), nil
}

// Definition is the digest of what counts of the op's definition.
func (o *Op) Definition() cache.Key { return o.digest }

// Pin returns what Digest pinned a source to; nil before, and for other ops.
func (o *Op) Pin() Pin {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pin
}

// Selector implements solver.Op.
func (o *Op) Selector(i int) cache.Selector { return o.selectors[i] }

// Outputs is the number of trees that the op makes.
func (o *Op) Outputs() int {
	n := 1
	switch x := o.Def.Op.(type) {
	case *pb.Op_Exec:
		n = 0
		for _, m := range x.Exec.Mounts {
			n = max(n, int(m.Output)+1)
		}
	case *pb.Op_Passthrough:
		n = len(x.Passthrough.GetOutputs())
	case *pb.Op_File:
		for _, a := range x.File.Actions {
			n = max(n, int(a.Output)+1)
		}
	}
	return n
}

// Kind implements solver.Op, with the names of BuildKit's client.UsageRecordType.
func (o *Op) Kind() string {
	if src := o.Def.GetSource(); src != nil {
		switch scheme(src.Identifier) {
		case "local":
			return "source.local"
		case "git":
			return "source.git.checkout"
		}
	}
	return "regular"
}

// canonical digests the definition without what must not count: the digests of
// the inputs (their content counts), proxies, the worker that was asked for, and
// for ops that run no code the platform.
func canonical(def *pb.Op) (cache.Key, error) {
	def = proto.Clone(def).(*pb.Op)
	for _, in := range def.Inputs {
		in.Digest, in.Index = "", 0
	}
	def.Constraints = nil
	if x := def.GetExec(); x != nil {
		if x.Meta != nil {
			x.Meta.ProxyEnv = nil
			x.Meta.CgroupParent = ""
		}
		for _, m := range x.Mounts {
			m.ResultID, m.ContentCache = "", 0
		}
	} else {
		def.Platform = nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(def)
	if err != nil {
		return cache.Key{}, fmt.Errorf("digest op: %w", err)
	}
	return cache.Hash("llb", b), nil
}
