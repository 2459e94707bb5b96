package digest

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
)

func TestContentOfAView(t *testing.T) {
	layers := [][]Entry{
		{dir("src"), file("src/a.go", "1"), file("src/b.go", "2"), file("src/c.txt", "3"), dir("src/sub"), file("src/sub/d.go", "4"), link("link", "src"), link("file", "src/a.go"), dir("empty"), link("dangling", "nosuch")},
	}
	key := func(s Select, top ...Entry) string {
		t.Helper()
		v := viewOf(t, append(slices.Clone(layers), top)...)
		k, err := v.Content(t.Context(), Selection{Paths: []Select{s}})
		if err != nil {
			t.Fatal(err)
		}
		return k.String()
	}
	newTime := file("src/a.go", "1")
	newTime.ModTime = time.Unix(1, 1)
	mode := file("src/a.go", "1")
	mode.Mode ^= 0o100
	dirMode := dir("src")
	dirMode.Mode ^= 0o100
	subMode := dir("src/sub")
	subMode.UID = 5
	change := map[string][]Entry{
		"nothing":     {dir("src"), newTime},
		"a.go":        {dir("src"), file("src/a.go", "changed")},
		"a.go mode":   {dir("src"), mode},
		"d.go":        {dir("src"), dir("src/sub"), file("src/sub/d.go", "changed")},
		"sub owner":   {dir("src"), subMode},
		"src mode":    {dirMode},
		"c.txt gone":  {dir("src"), whiteout("src/c.txt")},
		"new e.go":    {dir("src"), file("src/e.go", "")},
		"new sub2":    {dir("src"), dir("src/sub2"), file("src/sub2/x.go", "")},
		"elsewhere":   {file("other", "")},
		"file target": {link("file", "src/b.go")},
	}
	for name, c := range map[string]struct {
		s    Select
		want []string // the changes that count
	}{
		"root":               {Select{Path: "/"}, []string{"a.go", "a.go mode", "d.go", "sub owner", "src mode", "c.txt gone", "new e.go", "new sub2", "elsewhere", "file target"}},
		"directory":          {Select{Path: "/src"}, []string{"a.go", "a.go mode", "d.go", "sub owner", "src mode", "c.txt gone", "new e.go", "new sub2"}},
		"contents":           {Select{Path: "/src", Contents: true}, []string{"a.go", "a.go mode", "d.go", "sub owner", "c.txt gone", "new e.go", "new sub2"}},
		"a file":             {Select{Path: "src/./a.go"}, []string{"a.go", "a.go mode"}},
		"through link":       {Select{Path: "/link/a.go"}, []string{"a.go", "a.go mode"}},
		"link":               {Select{Path: "/file"}, []string{"file target"}},
		"followed":           {Select{Path: "/file", FollowLinks: true}, []string{"a.go", "a.go mode", "file target"}},
		"followed dir":       {Select{Path: "/link", FollowLinks: true, Contents: true}, []string{"a.go", "a.go mode", "d.go", "sub owner", "c.txt gone", "new e.go", "new sub2"}},
		"wildcard":           {Select{Path: "/src/*.go", Wildcard: true}, []string{"a.go", "a.go mode", "new e.go"}},
		"no match":           {Select{Path: "/src/*.py", Wildcard: true}, nil},
		"no prefix":          {Select{Path: "/nosuch/*.py", Wildcard: true}, nil},
		"two levels":         {Select{Path: "/*/*.go", Wildcard: true}, []string{"a.go", "a.go mode", "new e.go"}},
		"include":            {Select{Path: "/src", Contents: true, Include: []string{"sub"}}, []string{"d.go", "sub owner"}},
		"include deep":       {Select{Path: "/src", Contents: true, Include: []string{"**/d.go"}}, []string{"d.go", "sub owner"}},
		"include none":       {Select{Path: "/src", Include: []string{"nosuch"}}, []string{"src mode"}},
		"exclude":            {Select{Path: "/src", Contents: true, Exclude: []string{"sub", "*.txt", "e.go"}}, []string{"a.go", "a.go mode", "new sub2"}},
		"exclude but":        {Select{Path: "/src", Contents: true, Exclude: []string{"*", "!sub/d.go"}}, []string{"d.go", "sub owner"}},
		"both":               {Select{Path: "/src", Contents: true, Include: []string{"**/*.go"}, Exclude: []string{"sub*"}}, []string{"a.go", "a.go mode", "new e.go"}},
		"empty":              {Select{Path: "/empty", Contents: true}, nil},
		"patterns of a file": {Select{Path: "/src/a.go", Exclude: []string{"**"}}, []string{"a.go", "a.go mode"}},
	} {
		base := key(c.s)
		var got []string
		for what, es := range change {
			if key(c.s, es...) != base {
				got = append(got, what)
			}
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q count, want %q", name, got, c.want)
		}
	}
}

func TestContentIsOfItsOwn(t *testing.T) {
	v := viewOf(t, []Entry{file("a", "x"), file("b", "x"), dir("d"), file("d/a", "x"), dir("e"), dir("l"), link("l/k", "../a"), dir("deep"), dir("deep/d"), file("deep/d/a", "x")})
	seen := map[string]string{}
	for name, s := range map[string]Selection{
		"nothing":          {},
		"no match":         {Paths: []Select{{Path: "/*.x", Wildcard: true}}},
		"no match twice":   {Paths: []Select{{Path: "/*.x", Wildcard: true}, {Path: "/*.x", Wildcard: true}}},
		"empty directory":  {Paths: []Select{{Path: "/e"}}},
		"nothing of it":    {Paths: []Select{{Path: "/e", Contents: true}}},
		"a":                {Paths: []Select{{Path: "/a"}}},
		"b":                {Paths: []Select{{Path: "/b"}}},
		"a and b":          {Paths: []Select{{Path: "/a"}, {Path: "/b"}}},
		"b and a":          {Paths: []Select{{Path: "/b"}, {Path: "/a"}}},
		"both by wildcard": {Paths: []Select{{Path: "/[ab]", Wildcard: true}}},
		"d":                {Paths: []Select{{Path: "/d"}}},
		"d's contents":     {Paths: []Select{{Path: "/d", Contents: true}}},
		"by wildcard deep": {Paths: []Select{{Path: "/?/a", Wildcard: true}}},
		"link":             {Paths: []Select{{Path: "/l/k"}}},
		"linked":           {Paths: []Select{{Path: "/l/k", FollowLinks: true}}},
	} {
		k, err := v.Content(t.Context(), s)
		must(t, err)
		if other, ok := seen[k.String()]; ok {
			t.Errorf("%s has the content of %s", name, other)
		}
		seen[k.String()] = name
	}
	// Where something lies does not count beyond what a copy sees of it.
	for _, pair := range [][2]Select{
		{{Path: "/d"}, {Path: "/deep/d"}}, {{Path: "/d/a"}, {Path: "/a"}}, {{Path: "/d/*", Wildcard: true}, {Path: "/deep/d/*", Wildcard: true}},
		{{Path: "/d/a", Contents: true}, {Path: "/d/a"}}, {{Path: "d/"}, {Path: "/d"}},
	} {
		a, err := v.Content(t.Context(), Selection{Paths: pair[:1]})
		must(t, err)
		b, err := v.Content(t.Context(), Selection{Paths: pair[1:]})
		must(t, err)
		if a != b {
			t.Errorf("%+v and %+v differ", pair[0], pair[1])
		}
	}
}

func TestContentErrors(t *testing.T) {
	v := viewOf(t, []Entry{link("dangling", "nosuch"), link("loop", "loop"), file("f", "")})
	for _, c := range []struct {
		s    Select
		is   error
		want string
	}{
		{Select{Path: "no/./such"}, fs.ErrNotExist, "no/./such"},
		{Select{Path: "/f/x"}, fs.ErrNotExist, "/f/x"},
		{Select{Path: "/dangling", FollowLinks: true}, fs.ErrNotExist, `"/dangling" is a link to "nosuch"`},
		{Select{Path: "/d*", Wildcard: true, FollowLinks: true}, fs.ErrNotExist, `"/dangling" is a link to "nosuch"`},
		{Select{Path: "/loop", FollowLinks: true}, unix.ELOOP, "/loop"},
		{Select{Path: "/a[", Wildcard: true}, nil, `"/a[": syntax error in pattern`},
		{Select{Path: "/f", Include: []string{"a["}}, nil, "include patterns"},
		{Select{Path: "/f", Exclude: []string{"a["}}, nil, "exclude patterns"},
	} {
		_, err := v.Content(t.Context(), Selection{Paths: []Select{c.s}})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.s, err)
		}
	}
	if _, err := v.Content(t.Context(), Selection{Paths: []Select{{Path: "/dangling"}}}); err != nil {
		t.Error(err)
	}
}

func TestMatch(t *testing.T) {
	v := viewOf(t, []Entry{
		dir("src"), file("src/a.go", ""), file("src/b.go", ""), dir("src/x"), file("src/x/c.go", ""), link("s", "src"), link("src/y", "x"),
		dir("we*rd"), file("we*rd/f", ""), file("back\\slash", ""),
	})
	for _, c := range []struct {
		s    Select
		want []string
	}{
		{Select{Path: "src/a.go"}, []string{"/src/a.go"}},
		{Select{Path: "/s/a.go"}, []string{"/src/a.go"}},
		{Select{Path: "/s"}, []string{"/s"}},
		{Select{Path: "/s", FollowLinks: true}, []string{"/s"}},
		{Select{Path: "/s/*.go", Wildcard: true}, []string{"/src/a.go", "/src/b.go"}},
		{Select{Path: "/*/*.go", Wildcard: true}, []string{"/src/a.go", "/src/b.go"}},
		{Select{Path: "/src/*/c.go", Wildcard: true}, []string{"/src/x/c.go"}},
		{Select{Path: "/s*", Wildcard: true}, []string{"/s", "/src"}},
		{Select{Path: "/src", Wildcard: true}, []string{"/src"}},
		{Select{Path: "/we*rd/f"}, []string{"/we*rd/f"}},
		{Select{Path: "/we[*]rd/?", Wildcard: true}, []string{"/we*rd/f"}},
		{Select{Path: "/we\\*r[d]/f", Wildcard: true}, []string{"/we*rd/f"}},
		{Select{Path: "/back\\slash", Wildcard: true}, []string{"/back\\slash"}},
		{Select{Path: "/nosuch/*", Wildcard: true}, []string{}},
		{Select{Path: "/"}, []string{"/"}},
		{Select{Path: "/*", Wildcard: true}, []string{"/back\\slash", "/s", "/src", "/we*rd"}},
	} {
		if got, err := v.Match(c.s); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Match(%+v) = %q, %v; want %q", c.s, got, err, c.want)
		}
	}
	if _, err := v.Match(Select{Path: "s/nosuch", Wildcard: true}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "s/nosuch") {
		t.Error(err)
	}
}

func TestSelector(t *testing.T) {
	s := Selection{Paths: []Select{
		{Path: "a//b/", FollowLinks: true, Wildcard: true, Include: []string{"*.go", "!x"}, Exclude: []string{"<&>"}, Contents: true},
		{Path: "/ü"},
	}}
	sel := s.Selector()
	got, err := ParseSelector(sel)
	must(t, err)
	if got.Paths[0].Path != "/a/b" || got.Selector() != sel || len(got.Paths) != 2 || !got.Paths[0].Contents || got.Paths[0].Exclude[0] != "<&>" {
		t.Errorf("%+v", got)
	}
	if s.Paths[0].Path != "a//b/" {
		t.Error("Selector changed the selection")
	}
	for _, bad := range []string{"", "/", "{}", `{"paths":null}`, string(sel) + " ", string(sel) + "}", `{"paths":[{"path":"a"}]}`, `{"paths":[{"path":"/a","x":1}]}`,
		`{"paths":[{"path":"/a["` + `,"wildcard":true}]}`, `{"paths":[{"path":"/a","include":["["]}]}`, "{\"paths\":[{\"path\":\"/\xff\"}]}"} {
		if got, err := ParseSelector(cache.Selector(bad)); err == nil {
			t.Errorf("ParseSelector(%q) = %+v", bad, got)
		}
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []Selection{
		{}, {Paths: []Select{{Path: "/"}}}, {Paths: []Select{{Path: "/a*", Wildcard: true, Contents: true}, {Path: "/b", Include: []string{"**/x"}, Exclude: []string{"!y"}}}},
	} {
		f.Add(string(s.Selector()))
	}
	f.Add(`{"paths":[{"path":"/a/../b"}]}`)
	v := viewOf(f, []Entry{dir("a"), file("a/b", ""), link("c", "a"), link("d", "d")})
	f.Fuzz(func(t *testing.T, b string) {
		s, err := ParseSelector(cache.Selector(b))
		if err != nil {
			return
		}
		if string(s.Selector()) != b {
			t.Errorf("%q became %q", b, s.Selector())
		}
		// Whatever it selects, it is an error or a digest.
		_, _ = v.Content(t.Context(), s)
	})
}
