package gitref

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
)

func ptr[T any](v T) *T { return &v }

func TestParse(t *testing.T) {
	for in, want := range map[string]*Ref{
		"https://example.com/foo.git":             {Remote: "https://example.com/foo.git", ShortName: "foo"},
		"HTTPS://example.com/foo.git":             {Remote: "https://example.com/foo.git", ShortName: "foo"},
		"http://127.0.0.1:8080/.git#first":        {Remote: "http://127.0.0.1:8080/.git", Ref: "first", Unencrypted: true},
		"https://example.com/foo.git#release/1.2": {Remote: "https://example.com/foo.git", ShortName: "foo", Ref: "release/1.2"},
		"https://example.com/foo.git#a/b:c/../d":  {Remote: "https://example.com/foo.git", ShortName: "foo", Ref: "a/b", SubDir: "d"},
		"https://example.com/foo.git#:../../etc":  {Remote: "https://example.com/foo.git", ShortName: "foo", SubDir: "etc"},
		"https://u:p@example.com/x/foo.git":       {Remote: "https://u:p@example.com/x/foo.git", ShortName: "foo"},
		"git://example.com/foo":                   {Remote: "git://example.com/foo", ShortName: "foo", Unencrypted: true},
		"ssh://git@example.com:22/x/foo.git":      {Remote: "ssh://git@example.com:22/x/foo.git", ShortName: "foo"},
		"git@example.com:x/foo":                   {Remote: "git@example.com:x/foo", ShortName: "foo"},
		"me@example.com:/srv/foo.git?subdir=/s#v": {Remote: "me@example.com:/srv/foo.git", ShortName: "foo", Ref: "v", SubDir: "/s"},
		"github.com/moby/buildkit":                {Remote: "github.com/moby/buildkit", ShortName: "buildkit", LikeLocal: true},
		"github.com/moby/buildkit?tag=v1":         {Remote: "github.com/moby/buildkit", ShortName: "buildkit", LikeLocal: true, Ref: "refs/tags/v1"},
		"https://h/r.git?branch=v1.0":             {Remote: "https://h/r.git", ShortName: "r", Ref: "refs/heads/v1.0"},
		"https://h/r.git?branch=refs/heads/b":     {Remote: "https://h/r.git", ShortName: "r", Ref: "refs/heads/b"},
		"https://h/r.git?ref=v1&subdir=/s":        {Remote: "https://h/r.git", ShortName: "r", Ref: "v1", SubDir: "/s"},
		"https://h/r.git?ref=v1#v1":               {Remote: "https://h/r.git", ShortName: "r", Ref: "v1"},
		"https://h/r.git?mtime=commit":            {Remote: "https://h/r.git", ShortName: "r", MTime: "commit"},
		"https://h/r.git?keep-git-dir":            {Remote: "https://h/r.git", ShortName: "r", KeepGitDir: ptr(true)},
		"https://h/r.git?submodules=0":            {Remote: "https://h/r.git", ShortName: "r", Submodules: ptr(false)},
		"https://h/r.git?fetch-by-commit&commit=deadbeef": {
			Remote: "https://h/r.git", ShortName: "r", Checksum: "deadbeef", FetchByCommit: true,
		},
		"https://h/r.git?fetch-by-commit=false": {Remote: "https://h/r.git", ShortName: "r"},
	} {
		got, isGit, err := Parse(in)
		if err != nil || !isGit || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v, %v\nwant %+v", in, got, isGit, err, want)
		}
	}
}

func TestParseNotGit(t *testing.T) {
	for _, in := range []string{
		"", ".", "context", "./.git", "../x.git", ".git", "https://example.com/", "https://example.com/foo", "https://example.com/foo.git/",
		"https://example.com/foo.git.bar", "http://github.com/docker/docker.git:#branch", "example.com/foo.git", "docker-image://busybox",
		"httpx://example.com/foo.git", "ftp://example.com/foo.git",
	} {
		got, isGit, err := Parse(in)
		if got != nil || isGit || !errors.Is(err, ErrNotGit) {
			t.Errorf("Parse(%q) = %+v, %v, %v; want no git URL", in, got, isGit, err)
		}
	}
}

func TestParseFaults(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/r.git?ref=v1#v2":             `ref conflicts: "v2" vs "v1"`,
		"https://h/r.git?ref=v1&tag=v2":         "ref conflicts",
		"https://h/r.git?tag=v1&branch=v1":      "branch conflicts with tag",
		"https://h/r.git?mtime=invalid":         `invalid mtime value: "invalid" (must be "checkout" or "commit")`,
		"https://h/r.git?fetch-by-commit=maybe": `invalid fetch-by-commit value: "maybe"`,
		"https://h/r.git?submodules=maybe":      `invalid submodules value: "maybe"`,
		"https://h/r.git?keep-git-dir=2":        `invalid keep-git-dir value: "2"`,
		"https://h/r.git?nonsense=1":            `unexpected query "nonsense"`,
		"https://h/r.git?ref=":                  `query "ref" has no value`,
		"https://h/r.git?ref=a&ref=b":           `query "ref" has multiple values`,
		"https://h/r.git?checksum=a&commit=b":   `checksum conflicts: "a" vs "b"`,
	} {
		got, isGit, err := Parse(in)
		if got != nil || !isGit || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %+v, %v, %v; want an error with %q", in, got, isGit, err, want)
		}
	}
}

func TestOptions(t *testing.T) {
	r, _, err := Parse("https://h/r.git?mtime=commit&submodules=false&keep-git-dir=1&checksum=abc1234&fetch-by-commit&subdir=s#main")
	if err != nil {
		t.Fatal(err)
	}
	var got llb.GitInfo
	for _, o := range r.Options() {
		o.SetGitOption(&got)
	}
	want := llb.GitInfo{
		Ref: "main", SubDir: "s", Checksum: "abc1234", MTime: "commit", KeepGitDir: true, SkipSubmodules: true, FetchByCommit: true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("options set %+v, want %+v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("https://h/r.git?ref=v1&subdir=/s#v1")
	f.Add("git@h:p?branch=x#y:z")
	f.Fuzz(func(t *testing.T, s string) {
		r, isGit, err := Parse(s)
		if (r != nil) != (err == nil) || r != nil && !isGit {
			t.Fatalf("Parse(%q) = %v, %v, %v", s, r, isGit, err)
		}
	})
}
