package why

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
)

func example() *explainv1.WhyResponse {
	return &explainv1.WhyResponse{Build: "ref", CompletedNs: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local).UnixNano(), Steps: []*explainv1.Step{
		{Number: 2, Name: "[internal] load build context", State: explainv1.State_STATE_RAN, Internal: true, Causes: []*explainv1.Cause{{Text: "x"}}},
		{Number: 3, Name: "[1/4] FROM base", State: explainv1.State_STATE_CACHED},
		{
			Number: 4, Name: "[2/4] COPY . .", State: explainv1.State_STATE_RAN, Locations: []*explainv1.Location{{File: "Dockerfile", FirstLine: 3, LastLine: 3}},
			Causes: []*explainv1.Cause{{Kind: explainv1.Kind_KIND_FILES, Text: "src/a changed (content)", Files: []*explainv1.File{{Path: "src/a", Change: explainv1.Change_CHANGE_CHANGED, How: []string{"content"}}}}},
		},
		{
			Number: 5, Name: "[3/4] RUN <<EOF\nmake\nEOF", State: explainv1.State_STATE_FAILED, Locations: []*explainv1.Location{{File: "Dockerfile", FirstLine: 4, LastLine: 6}},
			Causes: []*explainv1.Cause{
				{Kind: explainv1.Kind_KIND_VARIABLE, Text: `variable V changed: "1" -> "2"`, Name: "V", Old: "1", New: "2"},
				{Kind: explainv1.Kind_KIND_FILES, Text: "summary", Step: "[2/4] COPY . .", More: 3, Files: []*explainv1.File{
					{Path: "/a\x1b[2J", Change: explainv1.Change_CHANGE_ADDED}, {Path: "/ü", Change: explainv1.Change_CHANGE_CHANGED, How: []string{"content", "mode 0644 -> 0755"}},
				}},
			},
		},
		{Number: 6, Name: "[4/4] RUN true", State: explainv1.State_STATE_CACHED, CutOff: true},
	}}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := build(example()).print(&b, false); err != nil {
		t.Fatal(err)
	}
	want := `build ref, ended 2026-01-02 03:04:05

#4 [2/4] COPY . .  Dockerfile:3
   src/a changed (content)

#5 [3/4] RUN <<EOF ...  Dockerfile:4-6  (failed)
   variable V changed: "1" -> "2"
   [2/4] COPY . . gave other files:
     /a\x1b[2J added
     /ü changed (content, mode 0644 -> 0755)
     and 3 more

2 steps ran, 2 cached (1 of them although a step that it reads ran again: it gave the same files)
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	r := example()
	r.Steps = r.Steps[:1]
	r.Steps = append(r.Steps, example().Steps[4])
	if err := build(r).print(&b, true); err != nil || !strings.Contains(b.String(), "#2 [internal] load build context\n   x\n") || !strings.Contains(b.String(), "#6 [4/4] RUN true  (cached)\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
	for _, c := range []struct {
		steps []*explainv1.Step
		want  string
	}{{nil, "\nno step was needed\n"}, {example().Steps[1:2], "\nnothing ran: 1 step cached\n"}} {
		b.Reset()
		if err := build(&explainv1.WhyResponse{Steps: c.steps}).print(&b, false); err != nil || !strings.HasSuffix(b.String(), c.want) {
			t.Errorf("%v\n%s", err, b.String())
		}
	}
}

func TestJSON(t *testing.T) {
	text, err := json.Marshal(build(example()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"Number":4`, `"State":"ran"`, `"Kind":"files"`, `"Path":"src/a","Change":"changed","How":["content"]`, `"Name":"V","Old":"1","New":"2"`, `"CutOff":true`, `"FirstLine":4,"LastLine":6`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if text, _ := json.Marshal(build(&explainv1.WhyResponse{})); !strings.Contains(string(text), `"Steps":[]`) {
		t.Errorf("%s", text)
	}
}
