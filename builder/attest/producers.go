package attest

import (
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// Producers knows which calls of frontends made the definitions that running
// builds were given. A definition that comes back as the input of another call,
// of the same build or not, is told by it. It is safe for concurrent use.
type Producers struct {
	mu sync.Mutex // guards by
	by map[digest.Digest]map[*production]bool
}

// production is one definition that one call made.
type production struct {
	head digest.Digest
	call *Invocation
}

// NewProducers returns one that knows nothing.
func NewProducers() *Producers {
	return &Producers{by: map[digest.Digest]map[*production]bool{}}
}

// add enters a definition; nil if it is empty.
func (s *Producers) add(def *pb.Definition, call *Invocation) *production {
	d := head(def)
	if d == "" {
		return nil
	}
	p := &production{head: d, call: call}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by[d] == nil {
		s.by[d] = map[*production]bool{}
	}
	s.by[d][p] = true
	return p
}

func (s *Producers) remove(ps []*production) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		delete(s.by[p.head], p)
		if len(s.by[p.head]) == 0 {
			delete(s.by, p.head)
		}
	}
}

// find returns the call that made a definition; nil if there is none, or if
// several made it that differ. Who asked for the call is left out.
func (s *Producers) find(def *pb.Definition) *Invocation {
	d := head(def)
	if d == "" {
		return nil
	}
	s.mu.Lock()
	var all []*Invocation
	for p := range s.by[d] {
		all = append(all, p.call.withoutRoot())
	}
	s.mu.Unlock()
	for _, i := range all {
		if !i.equal(all[0]) {
			return nil
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// inputs tells the inputs of a request that calls are known to have made.
func (s *Producers) inputs(defs map[string]*pb.Definition) map[string]*Invocation {
	var out map[string]*Invocation
	for name, def := range defs {
		if i := s.find(def); i != nil {
			if out == nil {
				out = map[string]*Invocation{}
			}
			out[name] = i
		}
	}
	return out
}

func (i *Invocation) withoutRoot() *Invocation {
	if i.Request == nil || i.Request.Root == nil {
		return i
	}
	r := *i.Request
	r.Root = nil
	return &Invocation{ConfigSource: i.ConfigSource, Request: &r}
}

// head is the digest of the step that a definition ends in, "" for none.
func head(def *pb.Definition) digest.Digest {
	if def == nil || len(def.Def) == 0 {
		return ""
	}
	op := &pb.Op{}
	if err := op.UnmarshalVT(def.Def[len(def.Def)-1]); err != nil || len(op.Inputs) == 0 {
		return ""
	}
	return digest.Digest(op.Inputs[0].Digest)
}
