package solver

import (
	"context"
	"fmt"
)

// Memory keeps, per step of a build target, the parts of the key that the step
// last ran under. Last returns cache.ErrNotFound for a step it does not know.
type Memory interface {
	Last(ctx context.Context, step string) ([]Part, error)
	Remember(ctx context.Context, step string, parts []Part) error
}

// Change is one part of a step's key that differs from the last time it ran. A
// part that is new has no Old, one that is gone no New.
type Change struct{ Name, Old, New string }

// explain reports why v has to run and remembers what it was asked with.
// Explanations are a comfort: without them the build goes on.
func (b *Build) explain(ctx context.Context, v *Vertex, k key) {
	if b.memory == nil || v.Step == "" {
		b.events.Missed(v, nil)
		return
	}
	parts := v.Op.Parts()
	for i, c := range k.parts {
		parts = append(parts, Part{Name: fmt.Sprintf("input %d (%s)", i, v.Inputs[i].Vertex.Name), Value: c.String()})
	}
	if k.fresh {
		parts = append(parts, Part{Name: "cache", Value: "not to be used"})
	}
	old, err := b.memory.Last(ctx, v.Step)
	if err != nil {
		old = nil
	}
	b.events.Missed(v, changes(old, parts))
	_ = b.memory.Remember(ctx, v.Step, parts)
}

// changes lists what differs between two lists of parts; nil if old is empty.
func changes(old, now []Part) []Change {
	if len(old) == 0 {
		return nil
	}
	was := map[string]string{}
	for _, p := range old {
		was[p.Name] = p.Value
	}
	var out []Change
	for _, p := range now {
		o, ok := was[p.Name]
		if !ok || o != p.Value {
			out = append(out, Change{Name: p.Name, Old: o, New: p.Value})
		}
		delete(was, p.Name)
	}
	for _, p := range old {
		if v, ok := was[p.Name]; ok {
			out = append(out, Change{Name: p.Name, Old: v})
		}
	}
	return out
}
