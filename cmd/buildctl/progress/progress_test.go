package progress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// show returns what a display in a mode writes.
func show(t *testing.T, mode string, events ...*client.SolveStatus) (string, []client.VertexWarning) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	d, err := newDisplay(mode, w)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	ch := d.Feed(func(*client.SolveStatus) { seen++ })
	for _, e := range events {
		ch <- e
	}
	close(ch)
	warnings, err := d.Close()
	if err != nil {
		t.Fatal(err)
	}
	d.Send(&client.SolveStatus{}) // too late, and no matter
	if seen != len(events) {
		t.Errorf("%d of %d events were passed on", seen, len(events))
	}
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), warnings
}

func TestModes(t *testing.T) {
	t.Setenv("BUILDKIT_PROGRESS", "")
	now := time.Now()
	event := &client.SolveStatus{
		Vertexes: []*client.Vertex{{Digest: "sha256:1", Name: "step one", Started: &now, Completed: &now}},
		Warnings: []*client.VertexWarning{{Vertex: "sha256:1", Short: []byte("careful")}},
	}
	for mode, want := range map[string]string{"auto": "#1 step one", "": "#1 step one", "plain": "#1 step one", "rawjson": `"name":"step one"`} {
		out, warnings := show(t, mode, event)
		if !strings.Contains(out, want) || len(warnings) != 1 {
			t.Errorf("%q: %q, %v", mode, out, warnings)
		}
	}
	for _, mode := range []string{"quiet", "none"} {
		if out, _ := show(t, mode, event); out != "" {
			t.Errorf("%q: %q", mode, out)
		}
	}
	t.Setenv("BUILDKIT_PROGRESS", "rawjson")
	if out, _ := show(t, "auto", event); !strings.HasPrefix(out, "{") {
		t.Errorf("$BUILDKIT_PROGRESS: %q", out)
	}
	if out, _ := show(t, "plain", event); strings.HasPrefix(out, "{") {
		t.Errorf("$BUILDKIT_PROGRESS counts more than the flag: %q", out)
	}
	for _, bad := range []string{"fancy", "tty"} { // there is no terminal
		if _, err := newDisplay(bad, os.Stderr); err == nil || bad == "fancy" && !strings.Contains(err.Error(), `"fancy"`) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	info := &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a\nfrom b\n")}
	w := client.VertexWarning{Short: []byte("Rule: what"), Detail: [][]byte{[]byte("more")}, URL: "http://x", SourceInfo: info, Range: []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}}
	var b bytes.Buffer
	PrintWarnings(&b, nil, false)
	if b.Len() > 0 {
		t.Errorf("no warnings: %q", b.String())
	}
	PrintWarnings(&b, []client.VertexWarning{w}, false)
	if s := b.String(); !strings.Contains(s, "1 warning found (use --debug to expand):\n - Rule: what\n") || strings.Contains(s, "more") {
		t.Errorf("one: %q", s)
	}
	b.Reset()
	PrintWarnings(&b, []client.VertexWarning{w, w}, true)
	for _, want := range []string{"2 warnings found:", "more", "http://x", "Dockerfile:2", ">>> from b"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("in detail: no %q in %q", want, b.String())
		}
	}
}

func TestErrors(t *testing.T) {
	src := errdefs.Source{
		Info:   &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a\nCOPI x\n")},
		Ranges: []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}},
	}
	err := fmt.Errorf("failed to solve: Internal: rpc error: code = Internal desc = %w", errors.New("unknown instruction"))
	err = src.WrapError(src.WrapError(err))
	var b bytes.Buffer
	PrintError(&b, err, false)
	s := b.String()
	if strings.Count(s, "Dockerfile:2") != 1 || !strings.Contains(s, ">>> COPI x") || !strings.HasSuffix(s, "error: failed to solve: unknown instruction\n") {
		t.Errorf("%s", s)
	}
}

func TestFailures(t *testing.T) {
	var f Failures
	long := bytes.Repeat([]byte("x"), maxTail)
	for range 5 {
		f.Add(&client.SolveStatus{Logs: []*client.VertexLog{{Vertex: "sha256:2", Data: long}}})
	}
	f.Add(&client.SolveStatus{
		Vertexes: []*client.Vertex{{Digest: "sha256:1", Name: "good"}, {Digest: "sha256:2", Name: "bad", Error: "exit code 1"}, {Digest: "sha256:3", Name: "silent", Error: "x"}},
		Logs:     []*client.VertexLog{{Vertex: "sha256:1", Data: []byte("fine")}, {Vertex: "sha256:2", Data: []byte("the reason")}},
	})
	var b bytes.Buffer
	f.Print(&b)
	s := b.String()
	if !strings.Contains(s, " > bad:\n") || !strings.Contains(s, "the reason\n------") || strings.Contains(s, "fine") || strings.Contains(s, "silent") {
		t.Errorf("%.200s", s)
	}
	if len(s) > 3*maxTail {
		t.Errorf("%d bytes of a log are kept", len(s))
	}
}
