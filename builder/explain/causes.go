package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/opencontainers/go-digest"
)

const (
	// partInput is what causes call an input that is another one.
	partInput = "input"
	// maxCauses is how many causes of one step are told.
	maxCauses = 20
)

// causes says why a step that was missed has to run. Without deep files are not
// compared.
func (c *comparison) causes(ctx context.Context, m solver.Miss, deep bool) []*explainv1.Cause {
	now := c.now[m.Vertex.Digest]
	switch {
	case m.Vertex.NoCache:
		return plain(explainv1.Kind_KIND_NO_CACHE, "the cache was not to be used (--no-cache)")
	case m.Fresh:
		return plain(explainv1.Kind_KIND_NO_CACHE, "a step that it depends on was not to use the cache")
	case c.last == nil || !c.resembles:
		return plain(explainv1.Kind_KIND_FIRST_BUILD, "first build: none of the same target is remembered to compare with")
	case now == nil || c.was[m.Vertex.Digest] == nil:
		return plain(explainv1.Kind_KIND_NEW_STEP, "new step: the last build had none like it")
	}
	old := c.was[m.Vertex.Digest]
	d := differ{comparison: c, ctx: ctx, miss: m, deep: deep}
	out := d.partCauses(old, now)
	d.edited = len(out) > 0
	out = append(out, d.inputCauses(old, now)...)
	if n := len(out) - maxCauses; n > 0 {
		out = append(out[:maxCauses], plain(explainv1.Kind_KIND_UNSPECIFIED, fmt.Sprintf("and %d more", n))...)
	}
	if len(out) > 0 {
		return out
	}
	switch {
	case !find(old.Parts, partDefinition).same(find(now.Parts, partDefinition)):
		return plain(explainv1.Kind_KIND_OPTION, "an option of the instruction changed")
	case old.Unfinished:
		return plain(explainv1.Kind_KIND_NOT_FINISHED, "nothing changed, but the step did not come to its end the last time")
	default:
		return plain(explainv1.Kind_KIND_NOT_CACHED, "nothing changed, but its result is no longer in the cache: it was pruned, or evicted to free space")
	}
}

func plain(kind explainv1.Kind, text string) []*explainv1.Cause {
	return one(&explainv1.Cause{Kind: kind, Text: text})
}

// differ compares a step that was missed with its counterpart.
type differ struct {
	*comparison
	ctx  context.Context
	miss solver.Miss
	deep bool
	// edited says that the instruction itself is another, so that it is no wonder
	// if it reads other files.
	edited bool
}

// partCauses compares the parts of a step but for its whole definition, which
// says nothing to people.
func (d *differ) partCauses(old, now *step) []*explainv1.Cause {
	was := map[string]part{}
	for _, p := range old.Parts {
		was[p.Name] = p
	}
	var out []*explainv1.Cause
	for _, p := range now.Parts {
		o, ok := was[p.Name]
		delete(was, p.Name)
		switch {
		case p.Name == partDefinition || ok && p.same(o):
		case p.Name == partPin:
			if sourceOf(old) == sourceOf(now) {
				out = append(out, d.pinned(old, now))
			}
		case ok:
			out = append(out, changed(o, p))
		default:
			out = append(out, added(p))
		}
	}
	for _, p := range old.Parts {
		if _, ok := was[p.Name]; ok && p.Name != partDefinition && p.Name != partPin {
			out = append(out, removed(p))
		}
	}
	return out
}

// what calls a part by its name.
func (p part) what() string {
	switch {
	case p.Kind == explainv1.Kind_KIND_VARIABLE:
		return "variable " + p.Name
	case strings.HasPrefix(p.Name, partAction):
		return "instruction"
	default:
		return p.Name
	}
}

func changed(old, new part) *explainv1.Cause {
	c := &explainv1.Cause{Kind: new.Kind, Name: new.Name}
	switch {
	case old.Hidden || new.Hidden:
		c.Hidden, c.Text = true, new.what()+" changed (its value may be secret and is not shown)"
	case old.Value == new.Value: // cut, or without the credentials that changed
		c.Text = new.what() + " changed in a part that is not shown"
	default:
		c.Old, c.New = shown(old.Value, new.Value, maxValue)
		c.Text = change(new.what(), old.Value, new.Value)
	}
	return c
}

func added(p part) *explainv1.Cause {
	c := &explainv1.Cause{Kind: p.Kind, Name: p.Name, New: p.Value, Hidden: p.Hidden, Text: "new " + p.what()}
	if !p.Hidden {
		c.Text += fmt.Sprintf(": %q", cut(p.Value, maxShown))
	}
	return c
}

func removed(p part) *explainv1.Cause {
	c := &explainv1.Cause{Kind: p.Kind, Name: p.Name, Old: p.Value, Hidden: p.Hidden, Text: p.what() + " removed"}
	if !p.Hidden {
		c.Text += fmt.Sprintf(": it was %q", cut(p.Value, maxShown))
	}
	return c
}

// pinned says of a source that it stands for something else now.
func (d *differ) pinned(old, now *step) *explainv1.Cause {
	if !isLocal(now) {
		return another(old, now)
	}
	var tree *cache.Tree
	if t, ok := pinnedTree(d.miss.Vertex); ok {
		tree = &t
	}
	return d.filesOf(now, old, tree, input{Selector: cache.Root})
}

// another says of a source that it stands for something else now.
func another(old, now *step) *explainv1.Cause {
	was, is := find(old.Parts, partPin).Value, find(now.Parts, partPin).Value
	scheme, name, _ := strings.Cut(sourceOf(now), "://")
	text := map[string]string{"docker-image": "image %s is another", "oci-layout": "image %s is another", "git": "%s is at another commit"}[scheme]
	if text == "" {
		text = "%s has another content"
	}
	if scheme == "http" || scheme == "https" {
		name = sourceOf(now)
	}
	c := &explainv1.Cause{Kind: explainv1.Kind_KIND_SOURCE, Name: name, Old: was, New: is, Text: fmt.Sprintf(text, name)}
	if was != "" && is != "" && was != is {
		c.Text += fmt.Sprintf(": %s -> %s", short(was), short(is))
	}
	return c
}

// inputCauses compares what a step sees of its inputs.
func (d *differ) inputCauses(old, now *step) []*explainv1.Cause {
	var out, files []*explainv1.Cause
	for i, in := range now.Inputs {
		if i < len(d.miss.Inputs) {
			in.Content = d.miss.Inputs[i]
		}
		switch {
		case i >= len(old.Inputs):
			name := d.name(in.Step)
			out = append(out, &explainv1.Cause{Kind: explainv1.Kind_KIND_OPTION, Name: partInput, New: name, Text: "it reads " + name + " as well"})
		case old.Inputs[i].Content == in.Content:
		case d.now[in.Step] != nil && isLocal(d.now[in.Step]): // what people changed themselves comes first
			out = append(out, d.inputCause(old.Inputs[i], in, i)...)
		default:
			files = append(files, d.inputCause(old.Inputs[i], in, i)...)
		}
	}
	out = append(out, files...)
	for i := len(now.Inputs); i < len(old.Inputs); i++ {
		if from := d.last.by[old.Inputs[i].Step]; from != nil {
			out = append(out, &explainv1.Cause{Kind: explainv1.Kind_KIND_OPTION, Name: partInput, Old: from.Name, Text: "it no longer reads " + shownName(from)})
		}
	}
	return out
}

// inputCause says why what is seen of the i-th input differs; nil if it does not
// in truth.
func (d *differ) inputCause(was, in input, i int) []*explainv1.Cause {
	from, is := d.last.by[was.Step], d.now[in.Step]
	switch {
	case from == nil || is == nil:
		return one(d.someFiles(is))
	case d.was[in.Step] != from || sourceOf(from) != sourceOf(is):
		return one(replaced(from, is, i))
	case was.Selector != in.Selector && d.edited:
		return nil
	case was.Selector != in.Selector:
		return one(&explainv1.Cause{Kind: explainv1.Kind_KIND_OPTION, Name: partInput, Step: stepOf(is), Text: "it reads other files of " + shownName(is)})
	case isSource(is) && !isLocal(is):
		if find(from.Parts, partPin).same(find(is.Parts, partPin)) {
			return nil // the same files, which came here in another way
		}
		return one(another(from, is))
	}
	var tree *cache.Tree
	if i < len(d.miss.Trees) {
		tree = &d.miss.Trees[i]
	}
	in.Output = was.Output
	c := d.filesOf(is, from, tree, in)
	if len(c.Files) == 0 && d.notCached(in.Step) {
		return one(&explainv1.Cause{Kind: explainv1.Kind_KIND_NOT_CACHED, Step: stepOf(is), Text: shownName(is) + " was no longer in the cache, and ran again"})
	}
	return one(c)
}

func one(c *explainv1.Cause) []*explainv1.Cause { return []*explainv1.Cause{c} }

// notCached tells whether a step ran for no other reason than that its result, or
// that of a step before it, was lost.
func (d *differ) notCached(step digest.Digest) bool {
	causes := d.told(step)
	return len(causes) > 0 && !slices.ContainsFunc(causes, func(c *explainv1.Cause) bool { return c.Kind != explainv1.Kind_KIND_NOT_CACHED })
}

func (c *comparison) name(d digest.Digest) string {
	if s := c.now[d]; s != nil {
		return shownName(s)
	}
	return "another step"
}

// replaced says that another step stands in the place of an input. The first
// input of most steps is what they are built on.
func replaced(from, is *step, i int) *explainv1.Cause {
	c := &explainv1.Cause{Kind: explainv1.Kind_KIND_OPTION, Name: partInput, Old: from.Name, New: is.Name, Step: stepOf(is)}
	verb := "reads"
	if i == 0 {
		verb = "follows"
	}
	c.Text = fmt.Sprintf("it %s %q now, not %q", verb, cut(is.Name, maxShown), cut(from.Name, maxShown))
	return c
}

// filesOf compares what is seen of a step's output with what was seen of it;
// tree is the output now, nil if it is not known.
func (d *differ) filesOf(is, from *step, tree *cache.Tree, in input) *explainv1.Cause {
	if !d.deep || tree == nil || in.Output < 0 || in.Output >= len(from.Trees) {
		return d.someFiles(is)
	}
	files, more, err := d.x.files(d.ctx, from.Trees[in.Output], *tree, in.Selector, isLocal(is))
	if err != nil {
		return d.someFiles(is)
	}
	out := &explainv1.Cause{Kind: explainv1.Kind_KIND_FILES, Step: stepOf(is), Files: files, More: more}
	switch {
	case len(files) == 0:
		out.Text = shownName(is) + " gave the same files in other layers"
	case isLocal(is):
		out.Text = filesText(files, more)
	default:
		out.Text = fmt.Sprintf("%s gave other files: %s", shownName(is), filesText(files, more))
	}
	return out
}

// someFiles says what is known where trees are not or cannot be compared; is may
// be nil.
func (d *differ) someFiles(is *step) *explainv1.Cause {
	c := &explainv1.Cause{Kind: explainv1.Kind_KIND_FILES, Text: "files of another step changed"}
	if is != nil {
		c.Step, c.Text = stepOf(is), fmt.Sprintf("files of %s changed", shownName(is))
	}
	if d.deep {
		c.Text += "; which ones is not known, as not all of the earlier ones are here to compare with"
	}
	return c
}

// stepOf is the name of a step in a cause: empty for the build context.
func stepOf(s *step) string {
	if isLocal(s) {
		return ""
	}
	return s.Name
}

// shownName is what a step is called in a sentence.
func shownName(s *step) string {
	if name, ok := strings.CutPrefix(sourceOf(s), "local://"); ok {
		if name == "context" {
			return "the build context"
		}
		return "the context " + name
	}
	return shortName(s.Name)
}

// sourceOf is what a source was asked for, with its scheme; "" for another step.
func sourceOf(s *step) string { return find(s.Parts, partSource).Value }

func isSource(s *step) bool { return sourceOf(s) != "" }

func isLocal(s *step) bool { return strings.HasPrefix(sourceOf(s), "local://") }
