package explain

import (
	"context"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/opencontainers/go-digest"
)

// comparison is of a build with the last one of its target.
type comparison struct {
	x      *Explainer
	loaded bool
	// last is nil if nothing is remembered.
	last *lastBuild
	// resembles says that last is of the same thing, as far as one can tell.
	resembles bool
	now       map[digest.Digest]*step
	was       map[digest.Digest]*step // the counterparts, by the digests of now
	// told returns the causes of a step of this build, if it ran.
	told func(digest.Digest) []*explainv1.Cause
}

// load finds the last build.
func (c *comparison) load(ctx context.Context, target string) {
	if !c.loaded {
		c.loaded, c.last = true, c.x.last(ctx, target)
	}
}

// know takes the steps that the build knows by now, and finds their counterparts.
// sure says that the last build is of the same thing, whatever it looks like.
func (c *comparison) know(vertices []*solver.Vertex, sure bool) {
	if len(vertices) == len(c.now) {
		return
	}
	now := make([]step, 0, len(vertices))
	c.now = make(map[digest.Digest]*step, len(vertices))
	for _, v := range vertices {
		if o, ok := v.Op.(*llb.Op); ok {
			now = append(now, describe(v, o, nil))
			c.now[v.Digest] = &now[len(now)-1]
		}
	}
	c.was = c.last.match(now)
	c.resembles = c.last != nil && (sure || c.last.resembles(now))
}

// refresh describes a step again.
func (c *comparison) refresh(v *solver.Vertex) {
	o, ok := v.Op.(*llb.Op)
	if s := c.now[v.Digest]; ok && s != nil {
		*s = describe(v, o, nil)
	}
}
