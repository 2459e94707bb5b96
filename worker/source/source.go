package source

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
)

// Request is what a pb.SourceOp asks for.
type Request struct {
	// Identifier is SCHEME://REST as LLB has it.
	Identifier string            `json:"identifier"`
	Attrs      map[string]string `json:"attrs,omitempty"`
	// Platform counts for images only; nil is the worker's own.
	Platform *pb.Platform `json:"platform,omitempty"`
	// Memo makes equal requests of one build resolve to the same thing; nil
	// remembers nothing.
	Memo *Memo `json:"-"`
	// Progress hears of what pinning has to transfer; it may be nil.
	Progress func(solver.Status) `json:"-"`
	// Log gets what programs write that pinning and fetching run (git); stream is
	// 1 for standard output, 2 for standard error. It may be nil.
	Log func(stream int, data []byte) `json:"-"`
}

// Scheme returns the identifier's scheme, "" if it has none.
func (r Request) Scheme() string {
	scheme, _, ok := strings.Cut(r.Identifier, "://")
	if !ok {
		return ""
	}
	return scheme
}

// Ref returns the identifier without its scheme.
func (r Request) Ref() string {
	_, ref, _ := strings.Cut(r.Identifier, "://")
	return ref
}

// Pin is what a Request meant at one moment. It is plain data, so it can be
// kept, compared and sent to another machine.
type Pin struct {
	Request Request `json:"request"`
	// Key covers all that the files of the source depend on, and nothing else:
	// two pins with one Key have the same files.
	Key string `json:"key"`
	// Resolved says in words what was pinned, such as a digest or a commit. It is
	// for progress, provenance and the explanation of misses.
	Resolved string `json:"resolved"`
	// Tree holds the files if pinning had to transfer them already, else "". It
	// may have been evicted since; Fetch copes with that.
	Tree cache.Tree `json:"tree,omitempty"`
	// State is what the Source's own Fetch needs to know beside the Request.
	State []byte `json:"state,omitempty"`
}

// Source is one kind of source.
//
// A Source is safe for concurrent use and keeps nothing of a Pin: Fetch may be
// called in another process than Pin was, or never. Both end soon after ctx is
// cancelled and leave nothing half-written behind. The client c is asked for
// secrets, credentials and files; it may be nil, which is a client that has
// none of them.
type Source interface {
	// Schemes are those of the identifiers that the Source understands.
	Schemes() []string
	// Pin resolves r. What a client named wrongly, or a server that cannot be
	// reached, is an error that says what would be right.
	Pin(ctx context.Context, c session.Client, r Request) (Pin, error)
	// Fetch makes the tree of p. progress may be nil. It fails if the files have
	// become others than p says.
	Fetch(ctx context.Context, c session.Client, p Pin, progress func(solver.Status)) (cache.Tree, error)
}

// Describer is a Source that can describe what a Request names without making
// its tree, for the gateway's ResolveSourceMetadata.
type Describer interface {
	Describe(ctx context.Context, c session.Client, r Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error)
}

// Set chooses a Source by scheme.
type Set struct {
	by map[string]Source
}

// NewSet returns the Set of kinds. Of two kinds with the same scheme it is the
// latter that counts.
func NewSet(kinds ...Source) *Set {
	s := &Set{by: map[string]Source{}}
	for _, k := range kinds {
		for _, scheme := range k.Schemes() {
			s.by[scheme] = k
		}
	}
	return s
}

// Schemes lists what the set understands, sorted.
func (s *Set) Schemes() []string {
	var out []string
	for scheme := range s.by {
		out = append(out, scheme)
	}
	slices.Sort(out)
	return out
}

// Of returns the Source of an identifier.
func (s *Set) Of(identifier string) (Source, error) {
	k, ok := s.by[Request{Identifier: identifier}.Scheme()]
	if !ok {
		return nil, fmt.Errorf("source %q: unknown scheme, want one of %s://", identifier, strings.Join(s.Schemes(), ":// "))
	}
	return k, nil
}

// Pin pins r with the Source of its scheme.
func (s *Set) Pin(ctx context.Context, c session.Client, r Request) (Pin, error) {
	k, err := s.Of(r.Identifier)
	if err != nil {
		return Pin{}, err
	}
	return k.Pin(ctx, c, r)
}

// Fetch fetches p with the Source of its scheme.
func (s *Set) Fetch(ctx context.Context, c session.Client, p Pin, progress func(solver.Status)) (cache.Tree, error) {
	k, err := s.Of(p.Request.Identifier)
	if err != nil {
		return "", err
	}
	return k.Fetch(ctx, c, p, progress)
}

// Describe describes r. A kind without metadata answers with r itself.
func (s *Set) Describe(ctx context.Context, c session.Client, r Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	k, err := s.Of(r.Identifier)
	if err != nil {
		return nil, err
	}
	if d, ok := k.(Describer); ok {
		return d.Describe(ctx, c, r, o)
	}
	return &sourceresolver.MetaResponse{Op: r.Op()}, nil
}

// Op returns r as LLB has it.
func (r Request) Op() *pb.SourceOp {
	return &pb.SourceOp{Identifier: r.Identifier, Attrs: r.Attrs}
}
