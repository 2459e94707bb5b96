package git

import (
	"fmt"
	"strings"
	"testing"

	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
)

func TestHostile(t *testing.T) {
	for _, s := range []string{
		"ext::sh -c id", "file:///etc", "/etc", "--upload-pack=id", "ssh://-oProxyCommand=id/x", "ssh://-oProxyCommand=id@h/x", "https://-h/x",
		"git@-h:x", "u@h:-x", "https://h/x#-f", "https://h/x#a..b", "https://h/x#a:../../b", "https://h/x#+main", "https://h/x#a%0ab", "https://h", "https:///x",
		"https://h/x#a^{}", "ftp://h/x", "http+ext://h/x", "ssh://u:p@h/x",
	} {
		r, err := parse(source.Request{Identifier: "git://" + s})
		if err == nil && (r.remote.scheme != "https" || strings.Contains(r.subdir, "..") || strings.HasPrefix(r.remote.host, "-")) {
			t.Errorf("%s: accepted as %+v", s, r)
		}
		switch s {
		case "/etc", "https://h/x#a:../../b": // https:///etc has no host; a subdirectory stays in the repository
		default:
			if err == nil {
				t.Errorf("%s: accepted as %+v", s, r)
			}
		}
	}
	for s, want := range map[string]string{
		"git@github.com:moby/buildkit.git#v1:sub": "git@github.com:moby/buildkit.git v1 sub",
		"github.com/moby/buildkit":                "https://github.com/moby/buildkit  ",
		"ssh://git@h:22/x":                        "ssh://git@h:22/x  ",
		"https://u:p@h/x?a=b#c":                   "https://h/x c ",
	} {
		r, err := parse(source.Request{Identifier: "git://" + s})
		if got := fmt.Sprintf("%s %s %s", r.remote.url, r.ref, r.subdir); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", s, got, err, want)
		}
	}
	_, err := parse(source.Request{Identifier: "git://h/x", Attrs: map[string]string{pb.AttrFullRemoteURL: "https://other/x"}})
	if err == nil {
		t.Error("a full URL of another repository was accepted")
	}
}

// What is accepted is never an option, another protocol or several lines to git.
func FuzzParseRemote(f *testing.F) {
	for _, s := range []string{
		"github.com/a/b.git#v1:sub", "git@h:a/b#r", "ssh://u@h:22/x", "https://u:p@h/x?q#f:d", "ext::sh -c id", "file:///x", "-x", "u@-h:x", "http://h/%0a#%00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRemote(s)
		if err != nil {
			return
		}
		switch r.scheme {
		case "http", "https", "ssh", "git":
		default:
			t.Errorf("%q: protocol %q", s, r.scheme)
		}
		for _, v := range []string{r.url, r.ref, r.host, strings.TrimPrefix(r.path, "/")} {
			if strings.HasPrefix(v, "-") || r.url == v && strings.ContainsAny(v, "\n\r\x00") {
				t.Errorf("%q: %q", s, v)
			}
		}
		if !r.scp && !strings.HasPrefix(r.url, r.scheme+"://") {
			t.Errorf("%q: url %q", s, r.url)
		}
		if strings.HasPrefix(r.subdir, "/") || r.subdir == ".." || strings.HasPrefix(r.subdir, "../") || strings.Contains(r.subdir, "/../") {
			t.Errorf("%q: subdirectory %q", s, r.subdir)
		}
	})
}
