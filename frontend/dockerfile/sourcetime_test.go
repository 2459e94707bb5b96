package dockerfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/ulikunitz/xz"
)

var (
	day1 = time.Unix(1700000101, 0).UTC()
	day2 = time.Unix(1700000202, 0).UTC()
)

// archive has a file of day1, one of day2 between them and a directory of later.
func archive(t *testing.T, compress func(io.Writer) (io.WriteCloser, error)) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := compress(&buf)
	if err != nil {
		t.Fatal(err)
	}
	out := tar.NewWriter(w)
	for _, h := range []tar.Header{
		{Name: "a", Typeflag: tar.TypeReg, ModTime: day1, Size: 1},
		{Name: "b", Typeflag: tar.TypeReg, ModTime: day2, Size: 1},
		{Name: "c", Typeflag: tar.TypeReg, ModTime: day1, Size: 1},
		{Name: "d", Typeflag: tar.TypeDir, ModTime: day2.Add(time.Hour)},
	} {
		if err := out.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }

var formats = map[string]func(io.Writer) (io.WriteCloser, error){
	"tar":  func(w io.Writer) (io.WriteCloser, error) { return noClose{w}, nil },
	"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
}

func TestNewestFile(t *testing.T) {
	for name, f := range formats {
		data := archive(t, f)
		if !isArchive([]byte(data[:min(len(data), archiveHead)])) {
			t.Errorf("%s is not known as an archive", name)
		}
		got, err := newestFile(strings.NewReader(data))
		if err != nil || got == nil || !got.Equal(day2) {
			t.Errorf("%s: newest file is of %v, %v", name, got, err)
		}
		if got, err := newestFile(strings.NewReader(data[:len(data)/2])); err == nil && got != nil && got.After(day2) {
			t.Errorf("%s, truncated: %v, %v", name, got, err)
		}
	}
	for _, data := range []string{"", "FROM scratch\n", strings.Repeat("\n", 4096)} {
		if got, err := newestFile(strings.NewReader(data)); got != nil || err != nil {
			t.Errorf("%.10q: %v, %v", data, got, err)
		}
	}
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}
	if !isArchive(skippable) || isArchive(skippable[:7]) {
		t.Error("zstd with a frame to be skipped is not known")
	}
}

func FuzzNewestFile(f *testing.F) {
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("BZh91AY&SY"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = newestFile(bytes.NewReader(data))
	})
}

func TestCommitterTime(t *testing.T) {
	head := "tree 1\nparent 2\nauthor A <a@b> 1 +0000\n"
	for _, line := range []string{"committer A B <c@d> 1700000101 +0200\n", "committer <a> <c@d> 1700000101 -1130\n", "committer <> 1700000101 +0000"} {
		got, err := committerTime([]byte(head + line))
		if err != nil || !got.Equal(day1) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "committer\n", "committer A <c@d>\n", "committer A <c@d> x +0000\n", "\ncommitter A <c@d> 1 +0000\n"} {
		if got, err := committerTime([]byte(head + line)); err == nil {
			t.Errorf("%q: %v, want an error", line, got)
		}
	}
}

func TestSourceTime(t *testing.T) {
	http := func(url string) llb.State { return llb.HTTP(url, llb.Filename("context")) }
	commit := "tree 1\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1700000101 +0000\n\nmsg"
	long := archive(t, formats["tar"]) + strings.Repeat("\x00", 3*chunkSize)
	client := &fakeClient{
		files: local(map[string]string{"Dockerfile": "x"}),
		meta: map[string]*sourceresolver.MetaResponse{
			"git://h/r.git":  {Git: &sourceresolver.ResolveGitResponse{CommitObject: []byte(commit)}},
			"git://h/x.git":  {Git: &sourceresolver.ResolveGitResponse{CommitObject: []byte("tree 1\n")}},
			"http://h/dated": {HTTP: &sourceresolver.ResolveHTTPResponse{LastModified: &day2}},
			"http://h/tar":   {HTTP: &sourceresolver.ResolveHTTPResponse{}},
			"http://h/text":  {HTTP: &sourceresolver.ResolveHTTPResponse{}},
			"http://h/bad":   {HTTP: &sourceresolver.ResolveHTTPResponse{}},
			"http://h/gone":  {HTTP: &sourceresolver.ResolveHTTPResponse{}},
			"local://l":      {},
		},
	}
	client.files["http://h/tar"] = map[string]string{"context": long}
	client.files["http://h/text"] = map[string]string{"context": "FROM scratch"}
	client.files["http://h/bad"] = map[string]string{"context": "\x1f\x8b\x08\x00\x00"}
	b := mustOpen(t, client)
	for name, c := range map[string]struct {
		st   llb.State
		want *time.Time
		err  string
	}{
		"git":             {st: llb.Git("https://h/r.git", ""), want: &day1},
		"bad commit":      {st: llb.Git("https://h/x.git", ""), err: "read commit of git://h/x.git"},
		"unknown git":     {st: llb.Git("https://h/y.git", ""), err: "not found"},
		"last modified":   {st: http("http://h/dated"), want: &day2},
		"archive":         {st: llb.Scratch().File(llb.Copy(http("http://h/tar"), "/context", "/")), want: &day2},
		"text":            {st: http("http://h/text")},
		"broken archive":  {st: http("http://h/bad")},
		"gone":            {st: http("http://h/gone"), err: "read http://h/gone: open context"},
		"local":           {st: llb.Local("l", llb.SessionID("s"))},
		"scratch":         {st: llb.Scratch()},
		"several sources": {st: llb.Merge([]llb.State{http("http://h/dated"), llb.Git("https://h/r.git", "")})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := b.contexts.SourceTime(context.Background(), c.st, "what")
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || (got == nil) != (c.want == nil) || got != nil && !got.Equal(*c.want) {
				t.Errorf("time %v, %v; want %v", got, err, c.want)
			}
		})
	}
}
