package explain

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/solver/progress"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
)

// Close says that the build has ended, while its client is still there.
func (b *Build) Close() {
	b.target()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, t := range b.told {
		b.releaseLocked(t)
	}
}

// Finish waits for what is still being compared, remembers the build for the next
// one of its target, and returns its steps. It is called once, after Close.
func (b *Build) Finish(ctx context.Context) []*explainv1.Step {
	_ = b.group.Wait() // which has no error
	states := b.c.Log.Steps()
	b.remember(ctx, states)
	return b.steps(states)
}

// remember keeps what the build was like, unless that is known already.
func (b *Build) remember(ctx context.Context, states []progress.Step) {
	asked := b.solve.Asked()
	if len(asked) == 0 || len(asked) > maxSteps {
		return
	}
	unfinished := map[digest.Digest]bool{}
	for _, s := range states {
		unfinished[s.Digest] = stateOf(s.State) != explainv1.State_STATE_RAN && stateOf(s.State) != explainv1.State_STATE_CACHED
	}
	target, sure := b.target()
	asked = slices.DeleteFunc(asked, func(a solver.Asked) bool { _, ok := a.Vertex.Op.(*llb.Op); return !ok })
	steps := make([]step, len(asked))
	var print []string
	for i, a := range asked {
		s := describe(a.Vertex, a.Vertex.Op.(*llb.Op), a.Inputs)
		s.Unfinished = unfinished[a.Vertex.Digest]
		steps[i] = s
		print = append(print, s.Place+"\n"+a.Key.String()+"\n"+flag(s.Unfinished, "unfinished"))
	}
	slices.Sort(print)
	is := cache.Hash("explained build", []byte(strings.Join(print, "\n\n")))
	if b.x.isSeen(target, is) {
		return
	}
	for i, a := range asked {
		steps[i].Trees = b.trees(ctx, a.Vertex)
	}
	c := comparison{x: b.x, loaded: b.comparison.loaded, last: b.comparison.last}
	c.load(ctx, target)
	var kept *lastBuild
	if c.last != nil && (sure || c.last.resembles(steps)) {
		kept = c.last
	}
	b.x.remember(ctx, target, kept.over(steps, kept.match(steps)), is)
}

// trees are a step's outputs, as far as they are known.
func (b *Build) trees(ctx context.Context, v *solver.Vertex) []cache.Tree {
	var out []cache.Tree
	for i := range v.Op.(*llb.Op).Outputs() {
		t, err := b.solve.Known(ctx, solver.Edge{Vertex: v, Output: i})
		if err != nil {
			return nil
		}
		out = append(out, t)
	}
	return out
}

// steps lists the steps of the build that began, in the order of their numbers.
func (b *Build) steps(states []progress.Step) []*explainv1.Step {
	b.mu.Lock()
	defer b.mu.Unlock()
	vertices := map[digest.Digest]*solver.Vertex{}
	for _, v := range b.solve.Vertices() {
		vertices[v.Digest] = v
	}
	began := slices.DeleteFunc(slices.Clone(states), func(s progress.Step) bool { return s.State.Started.IsZero() })
	slices.SortStableFunc(began, func(a, b progress.Step) int { return noticed(a.State).Compare(noticed(b.State)) })
	ran := map[digest.Digest]bool{}
	for _, s := range began {
		ran[s.Digest] = !s.State.Cached
	}
	var out []*explainv1.Step
	for i, s := range began {
		v := vertices[s.Digest]
		if v == nil {
			continue // work outside the graph
		}
		x := &explainv1.Step{
			Number: int32(i + 1), Digest: string(s.Digest), Name: v.Name, Internal: internal(v.Name), State: stateOf(s.State),
			StartedNs: s.State.Started.UnixNano(), Locations: locations(b.c.Where(v.Digest)),
		}
		if !s.State.Completed.IsZero() {
			x.DurationNs = int64(s.State.Completed.Sub(s.State.Started))
		}
		if x.State == explainv1.State_STATE_CACHED {
			x.CutOff = slices.ContainsFunc(v.Inputs, func(e solver.Edge) bool { return ran[e.Vertex.Digest] })
		} else if t := b.told[v.Digest]; t != nil {
			x.Causes, x.Why = t.causes, why(t.causes)
		}
		out = append(out, x)
	}
	return out
}

// noticed is about when clients notice a step, which is when they number it: they
// look a few times a second, and show what has ended by then first.
func noticed(s solver.State) time.Time {
	const look = 100 * time.Millisecond
	if at := s.Started.Add(look); s.Completed.IsZero() || at.Before(s.Completed) {
		return at
	}
	return s.Completed
}

func stateOf(s solver.State) explainv1.State {
	switch {
	case s.Completed.IsZero() || errors.Is(s.Err, context.Canceled):
		return explainv1.State_STATE_CANCELED
	case s.Err != nil:
		return explainv1.State_STATE_FAILED
	case s.Cached:
		return explainv1.State_STATE_CACHED
	default:
		return explainv1.State_STATE_RAN
	}
}

// locations lists where a step stands, lines that follow each other as one place.
func locations(in []*errdefs.Source) []*explainv1.Location {
	var all []*explainv1.Location
	for _, s := range in {
		for _, r := range s.Ranges {
			all = append(all, &explainv1.Location{
				File: s.Info.GetFilename(), FirstLine: r.GetStart().GetLine(), LastLine: max(r.GetStart().GetLine(), r.GetEnd().GetLine()),
			})
		}
	}
	slices.SortFunc(all, func(a, b *explainv1.Location) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.FirstLine, b.FirstLine), cmp.Compare(a.LastLine, b.LastLine))
	})
	var out []*explainv1.Location
	for _, l := range all {
		if n := len(out); n > 0 && out[n-1].File == l.File && l.FirstLine <= out[n-1].LastLine+1 {
			out[n-1].LastLine = max(out[n-1].LastLine, l.LastLine)
		} else {
			out = append(out, l)
		}
	}
	return out
}
