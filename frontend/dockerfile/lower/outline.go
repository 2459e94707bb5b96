package lower

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/subrequests/outline"
)

// Outline answers the subrequest frontend.outline: the arguments, secrets and agents that building the target involves.
func Outline(ctx context.Context, src []byte, o Options) (*outline.Outline, error) {
	_, target, err := lowerTarget(ctx, src, o)
	if err != nil {
		return nil, WithSource(err, o.SourceMap)
	}
	out := &outline.Outline{
		Name:        target.def.Name,
		Description: target.def.DocComment,
		Sources:     [][]byte{src},
	}
	c := outlineCollector{out: out, stages: map[*stage]bool{}, args: map[string]bool{}, secrets: map[string]bool{}, ssh: map[string]bool{}}
	c.collect(target)
	slices.SortStableFunc(out.Args, func(a, b outline.Arg) int { return int(firstLine(a.Location) - firstLine(b.Location)) })
	slices.SortStableFunc(out.Secrets, func(a, b outline.Secret) int { return int(firstLine(a.Location) - firstLine(b.Location)) })
	slices.SortStableFunc(out.SSH, func(a, b outline.SSH) int { return int(firstLine(a.Location) - firstLine(b.Location)) })
	return out, nil
}

// argInfo is what there is to say of an argument.
type argInfo struct {
	definition instructions.KeyValuePairOptional
	value      string
	uses       map[string]struct{} // arguments in its default
	location   []parser.Range
}

// need is a secret or an agent of the client.
type need struct {
	required bool
	location []parser.Range
}

// outlineNotes collect, while a stage is lowered, what its outline is made of.
type outlineNotes struct {
	args    map[string]argInfo  // all that the stage can see
	used    map[string]struct{} // those that it makes use of
	secrets map[string]need
	ssh     map[string]need
}

func newOutlineNotes() outlineNotes {
	return outlineNotes{args: map[string]argInfo{}, used: map[string]struct{}{}, secrets: map[string]need{}, ssh: map[string]need{}}
}

func (n outlineNotes) clone() outlineNotes {
	return outlineNotes{args: maps.Clone(n.args), used: maps.Clone(n.used), secrets: maps.Clone(n.secrets), ssh: maps.Clone(n.ssh)}
}

// noteSecret remembers the first place of a secret.
func (n outlineNotes) noteSecret(id string, required bool, where []parser.Range) {
	if _, ok := n.secrets[id]; !ok {
		n.secrets[id] = need{required, where}
	}
}

func (n outlineNotes) noteSSH(id string, required bool, where []parser.Range) {
	if _, ok := n.ssh[id]; !ok {
		n.ssh[id] = need{required, where}
	}
}

// allUsed are the used arguments and those that their defaults use.
func (n outlineNotes) allUsed() []string {
	seen := map[string]struct{}{}
	var visit func(keys map[string]struct{})
	visit = func(keys map[string]struct{}) {
		for k := range keys {
			if _, ok := seen[k]; !ok {
				seen[k] = struct{}{}
				visit(n.args[k].uses)
			}
		}
	}
	visit(n.used)
	return slices.Sorted(maps.Keys(seen))
}

// outlineCollector joins the notes of the stages that a target needs; what is nearer to the target wins.
type outlineCollector struct {
	out                *outline.Outline
	stages             map[*stage]bool
	args, secrets, ssh map[string]bool
}

func (c *outlineCollector) collect(s *stage) {
	if c.stages[s] {
		return
	}
	c.stages[s] = true
	n := s.outline
	for _, k := range n.allUsed() {
		if a, ok := n.args[k]; ok && !c.args[k] {
			c.args[k] = true
			c.out.Args = append(c.out.Args, outline.Arg{
				Name:        a.definition.Key,
				Value:       a.value,
				Description: a.definition.DocComment,
				Location:    pbLocation(a.location),
			})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.secrets)) {
		if !c.secrets[id] {
			c.secrets[id] = true
			c.out.Secrets = append(c.out.Secrets, outline.Secret{Name: id, Required: n.secrets[id].required, Location: pbLocation(n.secrets[id].location)})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.ssh)) {
		if !c.ssh[id] {
			c.ssh[id] = true
			c.out.SSH = append(c.out.SSH, outline.SSH{Name: id, Required: n.ssh[id].required, Location: pbLocation(n.ssh[id].location)})
		}
	}
	for _, d := range s.needs() {
		c.collect(d)
	}
}
