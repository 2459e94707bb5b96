package digest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
)

// layered makes a view of layers with directories of their own: layers of one
// name are the same layer.
func layered(t testing.TB, layers ...namedLayer) *View {
	t.Helper()
	var ls []Layer
	for _, l := range layers {
		ls = append(ls, Layer{Dir: "/nonexistent/" + l.name, Index: index(t, l.entries...)})
	}
	return NewView(ls)
}

type namedLayer struct {
	name    string
	entries []Entry
}

// changed lists changes as "+path", "-path" and "~path".
func changed(t testing.TB, old, new *View, sel cache.Selector) []string {
	t.Helper()
	var out []string
	must(t, Changes(t.Context(), old, new, sel, func(c Change) error {
		switch {
		case c.Old == nil:
			out = append(out, "+"+c.Path)
		case c.New == nil:
			out = append(out, "-"+c.Path)
		default:
			out = append(out, "~"+c.Path)
		}
		return nil
	}))
	slices.Sort(out)
	return out
}

func TestChanges(t *testing.T) {
	base := namedLayer{"base", []Entry{
		dir("src"), file("src/a.go", "1"), file("src/b.go", "2"), dir("src/sub"), file("src/sub/c.go", "3"),
		dir("gone"), file("gone/x", "1"), dir("empty"), link("l", "src"), file("becomes", "1"),
	}}
	later := file("src/b.go", "2")
	later.ModTime = time.Unix(7, 7)
	mode := file("src/sub/c.go", "3")
	mode.Mode ^= 0o111
	owned := dir("src/sub")
	owned.UID = 9
	top := namedLayer{"top", []Entry{
		dir("src"), file("src/a.go", "other"), later, owned, mode, file("src/new.go", "n"),
		whiteout("gone"), whiteout("empty"), dir("added"), dir("added/sub"), file("added/sub/f", ""), dir("none"), link("l", "added"), dir("becomes"), file("becomes/f", ""),
	}}
	old, new := layered(t, base), layered(t, base, top)
	one := func(s Select) cache.Selector { return Selection{Paths: []Select{s}}.Selector() }
	for name, c := range map[string]struct {
		sel  cache.Selector
		want []string
	}{
		"all":                    {cache.Root, []string{"+/added/sub/f", "+/none", "+/src/new.go", "-/empty", "-/gone/x", "~/becomes", "~/l", "~/src/a.go", "~/src/sub", "~/src/sub/c.go"}},
		"directory":              {one(Select{Path: "/src"}), []string{"+/src/new.go", "~/src/a.go", "~/src/sub", "~/src/sub/c.go"}},
		"file":                   {one(Select{Path: "/src/a.go"}), []string{"~/src/a.go"}},
		"unchanged":              {one(Select{Path: "/src/b.go"}), nil},
		"gone":                   {one(Select{Path: "/gone"}), []string{"-/gone/x"}},
		"empty":                  {one(Select{Path: "/empty", Contents: true}), []string{"-/empty"}},
		"not there":              {one(Select{Path: "/nosuch"}), nil},
		"wildcard":               {one(Select{Path: "/src/*.go", Wildcard: true}), []string{"+/src/new.go", "~/src/a.go"}},
		"include":                {one(Select{Path: "/src", Include: []string{"**/c.go"}}), []string{"~/src/sub", "~/src/sub/c.go"}},
		"includes nothing in it": {one(Select{Path: "/src", Include: []string{"sub/*.py"}, Contents: true}), nil},
		"exclude":                {one(Select{Path: "/src", Exclude: []string{"sub", "new.go"}}), []string{"~/src/a.go"}},
		"excluded but":           {one(Select{Path: "/src", Exclude: []string{"*", "!sub/c.go"}}), []string{"~/src/sub", "~/src/sub/c.go"}},
		"through link":           {one(Select{Path: "/l", FollowLinks: true, Contents: true}), []string{"+/l/sub/f", "-/l/a.go", "-/l/b.go", "-/l/sub/c.go"}},
		"twice":                  {Selection{Paths: []Select{{Path: "/src/a.go"}, {Path: "/src"}}}.Selector(), []string{"+/src/new.go", "~/src/a.go", "~/src/sub", "~/src/sub/c.go"}},
	} {
		slices.Sort(c.want)
		if got := changed(t, old, new, c.sel); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if got := changed(t, new, new, c.sel); got != nil {
			t.Errorf("%s: a view differs from itself in %q", name, got)
		}
	}
	stop := errors.New("stop")
	n := 0
	if err := Changes(t.Context(), old, new, cache.Root, func(Change) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("%v after %d changes", err, n)
	}
	if err := Changes(t.Context(), old, new, "no selector", nil); err == nil {
		t.Error("a selector that is none was taken")
	}
}

// TestChangesAgreeWithContent holds both to each other on random trees: what has
// the same digest has no changes, and what has another has some.
func TestChangesAgreeWithContent(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	selections := []Selection{
		{Paths: []Select{{Path: "/"}}}, {Paths: []Select{{Path: "/a"}}}, {Paths: []Select{{Path: "/a", Contents: true}, {Path: "/b"}}},
		{Paths: []Select{{Path: "/*", Wildcard: true}}}, {Paths: []Select{{Path: "/", Include: []string{"**/c"}, Contents: true}}},
		{Paths: []Select{{Path: "/", Exclude: []string{"b", "!b/c"}}}}, {Paths: []Select{{Path: "/a", FollowLinks: true}}},
		{Paths: []Select{{Path: "/?/b", Wildcard: true}}}, {Paths: []Select{{Path: "/", Exclude: []string{"*/a"}, Contents: true}}},
	}
	same, differ := 0, 0
	for i := range 3000 {
		shared := []namedLayer{{"0", randomEntries(r)}}
		old := layered(t, append(slices.Clone(shared), namedLayer{"1", randomEntries(r)})...)
		new := layered(t, append(slices.Clone(shared), namedLayer{"2", randomEntries(r)})...)
		for _, s := range selections {
			a, aerr := old.Content(t.Context(), s)
			b, berr := new.Content(t.Context(), s)
			if aerr != nil || berr != nil {
				continue
			}
			got := changed(t, old, new, s.Selector())
			if a == b {
				same++
			} else {
				differ++
			}
			if (a == b) != (len(got) == 0) {
				t.Fatalf("round %d, %+v: equal digests: %v, changes: %q\nold %v\nnew %v", i, s, a == b, got, walkAll(t, old, "/"), walkAll(t, new, "/"))
			}
		}
	}
	if same < 1000 || differ < 1000 {
		t.Errorf("%d cases were the same and %d differed: too few of one", same, differ)
	}
}

// randomEntries makes a layer of few names, so that layers meet.
func randomEntries(r *rand.Rand) []Entry {
	var out []Entry
	var fill func(prefix string, depth int)
	fill = func(prefix string, depth int) {
		for _, n := range []string{"a", "b", "c"} {
			p := join(prefix, n)
			switch r.IntN(9) {
			case 0, 1:
				out = append(out, file(p, fmt.Sprint(r.IntN(2))))
			case 2:
				e := file(p, "0")
				e.Mode ^= 0o100
				out = append(out, e)
			case 3, 4:
				d := dir(p)
				d.Opaque = r.IntN(4) == 0
				d.UID = uint32(r.IntN(5) / 4)
				out = append(out, d)
				if depth < 3 {
					fill(p, depth+1)
				}
			case 5:
				out = append(out, whiteout(p))
			}
		}
	}
	fill("", 1)
	return out
}

func TestChangesEnds(t *testing.T) {
	var es []Entry
	for i := range 10_000 {
		es = append(es, file(fmt.Sprintf("f%05d", i), ""))
	}
	old, new := layered(t), layered(t, namedLayer{"n", es})
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Changes(ctx, old, new, cache.Root, func(Change) error {
		if n++; n == 10 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n == 10_000 {
		t.Errorf("%v after %d changes", err, n)
	}
}

// BenchmarkChanges compares two contexts of 20,000 files that differ in one.
func BenchmarkChanges(b *testing.B) {
	var es []Entry
	for d := range 200 {
		es = append(es, dir(fmt.Sprintf("d%03d", d)))
		for f := range 100 {
			es = append(es, file(fmt.Sprintf("d%03d/f%03d.go", d, f), fmt.Sprint(d, f)))
		}
	}
	old := index(b, es...)
	es[len(es)/2+1] = file(es[len(es)/2+1].Path, "changed")
	new := index(b, es...)
	for _, c := range []struct {
		name string
		sel  cache.Selector
	}{
		{"root", cache.Root}, {"copy", Selection{Paths: []Select{{Path: "/", Contents: true, Wildcard: true}}}.Selector()},
		{"excludes", Selection{Paths: []Select{{Path: "/", Contents: true, Exclude: []string{"**/*.md", "vendor"}}}}.Selector()},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				n := 0
				ov, nv := NewView([]Layer{{Dir: "/a", Index: old}}), NewView([]Layer{{Dir: "/b", Index: new}})
				must(b, Changes(b.Context(), ov, nv, c.sel, func(Change) error { n++; return nil }))
				if n != 1 {
					b.Fatal(n)
				}
			}
		})
	}
}
