package attest

import (
	"errors"
	"slices"
	"sync"

	"github.com/buildd/buildd/solver"
	"github.com/containerd/platforms"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// Ref is a reference that a frontend was given. References are compared by
// identity.
type Ref interface {
	Definition() *pb.Definition
	// Solved returns what the definition ends in, once it has been made.
	Solved() (solver.Edge, bool)
}

// Call is one call of a frontend, or the build itself, which has no request of
// its own. It is safe for concurrent use.
type Call struct {
	producers *Producers
	// root is what the client asked for, request what the frontend was called
	// with; nil for the build itself.
	root, request *Request

	mu     sync.Mutex // guards what follows
	images []Image
	refs   []Ref
	calls  []*Call
	made   []*production
}

// NewCall returns the record of a build that a client asked for with r.
func (p *Producers) NewCall(r Request) *Call { return &Call{producers: p, root: &r} }

// Enter returns the record of a frontend that is called with r. It counts once
// the frontend has returned.
func (c *Call) Enter(r Request) *Call {
	root := c.root
	if root.empty() {
		root = c.request
	}
	return &Call{producers: c.producers, root: root, request: &r}
}

// Return records that the frontend called as sub returned refs.
func (c *Call) Return(sub *Call, refs ...Ref) error {
	sub.add(refs)
	c.mu.Lock()
	c.calls = append(c.calls, sub)
	c.mu.Unlock()
	return c.produced(refs)
}

// Solve records references that definitions were made into.
func (c *Call) Solve(refs ...Ref) error {
	c.add(refs)
	return c.produced(refs)
}

// Apart returns the record of work for the same client that does not count.
func (c *Call) Apart() *Call { return &Call{producers: c.producers, root: c.root} }

// Image records that an image was looked up.
func (c *Call) Image(i Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.images = append(c.images, i)
}

// Release forgets the definitions that the call and all below it made.
func (c *Call) Release() {
	c.mu.Lock()
	made, calls := c.made, c.calls
	c.made = nil
	c.mu.Unlock()
	c.producers.remove(made)
	for _, sub := range calls {
		sub.Release()
	}
}

func (c *Call) add(refs []Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refs = append(c.refs, refs...)
}

func (c *Call) snapshot() (refs []Ref, calls []*Call, images []Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refs), slices.Clone(c.calls), slices.Clone(c.images)
}

// produced enters what the innermost call that has each ref made.
func (c *Call) produced(refs []Ref) error {
	for _, r := range refs {
		owner := c.owner(r)
		if owner == nil || owner.request == nil {
			continue
		}
		known, err := capture(r)
		if err != nil {
			return err
		}
		var s sources
		if known != nil {
			s = known.sources
		}
		p := c.producers.add(r.Definition(), owner.invocation(s))
		if p == nil {
			continue
		}
		c.mu.Lock()
		c.made = append(c.made, p)
		c.mu.Unlock()
	}
	return nil
}

// owner is the innermost call that has r.
func (c *Call) owner(r Ref) *Call {
	refs, calls, _ := c.snapshot()
	for _, sub := range calls {
		if o := sub.owner(r); o != nil {
			return o
		}
	}
	if slices.Contains(refs, r) {
		return c
	}
	return nil
}

// all visits every reference and image of the call and those below it.
func (c *Call) all() (refs []Ref, images []Image) {
	refs, calls, images := c.snapshot()
	for _, sub := range calls {
		r, i := sub.all()
		refs, images = append(refs, r...), append(images, i...)
	}
	return refs, images
}

// invocation tells what the frontend was called with; s are sources that are
// known to have been read.
func (c *Call) invocation(s sources) *Invocation {
	i := invocation(c.request.Frontend, published(c.request.Args), s)
	i.Request.Inputs = c.producers.inputs(c.request.Inputs)
	if root := c.rootInvocation(s); root != nil && !root.equal(i) {
		i.Request.Root = root
	}
	return i
}

// rootInvocation tells what the client asked for; nil if that was nothing.
func (c *Call) rootInvocation(s sources) *Invocation {
	if c.root.empty() {
		return nil
	}
	i := invocation(c.root.Frontend, published(c.root.Args), s)
	i.Request.Inputs = c.producers.inputs(c.root.Inputs)
	if i.Request.Frontend == "" && len(i.Request.Args) == 0 && len(i.Request.Inputs) == 0 {
		return nil
	}
	return i
}

// Captures tells of every reference of a result what is known of it, by the
// platforms' IDs, or as "" for a single one. What was not solved has none.
func (c *Call) Captures(res *gwclient.Result, all []Platform) (map[string]*Capture, error) {
	refs := map[string]Ref{}
	for id, r := range res.Refs {
		if r, ok := r.(Ref); ok {
			refs[id] = r
		}
	}
	if r, ok := res.Ref.(Ref); ok {
		refs[""] = r
	}
	own := []Ref{} // they and what attests to them do not count for each other
	for _, r := range refs {
		own = append(own, r)
	}
	for _, as := range res.Attestations {
		for _, a := range as {
			if r, ok := a.Ref.(Ref); ok {
				own = append(own, r)
			}
		}
	}
	out := map[string]*Capture{}
	for id, r := range refs {
		owner := c.owner(r)
		if owner == nil {
			return nil, errors.New("provenance: a reference of the result belongs to no request of the build")
		}
		cp, err := owner.capture(r, id, own, all)
		if err != nil {
			return nil, err
		}
		if cp != nil {
			out[id] = cp
		}
	}
	return out, nil
}

// capture tells what is known of r, the result under the name id. What else the
// frontend had made for it, such as the Dockerfile, is a source as well.
func (c *Call) capture(r Ref, id string, own []Ref, all []Platform) (*Capture, error) {
	cp, err := c.captureOne(r)
	if err != nil || cp == nil {
		return nil, err
	}
	refs, images := c.all()
	seen := map[Ref]bool{r: true}
	for _, o := range refs {
		if seen[o] || slices.Contains(own, o) {
			continue
		}
		seen[o] = true
		more, err := capture(o)
		if err != nil {
			return nil, err
		}
		if more != nil {
			cp.merge(more)
		}
	}
	if id != "" {
		images = ofPlatform(images, all, id)
	}
	for _, i := range images {
		cp.addImage(i)
	}
	cp.dropPinned()
	cp.sort()
	for _, p := range all {
		if p.ID == id || (id == "" && len(all) == 1) {
			cp.platform = platforms.FormatAll(p.Platform)
			break
		}
	}
	return cp, nil
}

func (c *Call) captureOne(r Ref) (*Capture, error) {
	cp, err := capture(r)
	if err != nil || cp == nil || c.request == nil {
		return cp, err
	}
	cp.context = c.request.local()
	cp.request.Frontend = c.request.Frontend
	cp.request.Args = published(c.request.Args)
	i := c.invocation(cp.sources)
	cp.request.Inputs, cp.request.Root = i.Request.Inputs, i.Request.Root
	return cp, nil
}
