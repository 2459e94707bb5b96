package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

func sel(id string, m spb.MatchType) *spb.Selector {
	return &spb.Selector{Identifier: id, MatchType: m}
}

func TestApply(t *testing.T) {
	deny, allow, convert := spb.PolicyAction_DENY, spb.PolicyAction_ALLOW, spb.PolicyAction_CONVERT
	for name, c := range map[string]struct {
		rules []*spb.Rule
		in    string
		want  string // "" for denied
	}{
		"nothing matches": {[]*spb.Rule{{Action: deny, Selector: sel("docker-image://x", 0)}}, "docker-image://y", "docker-image://y"},
		"denied":          {[]*spb.Rule{{Action: deny, Selector: sel("docker-image://docker.io/*", 0)}}, "docker-image://docker.io/library/a:1", ""},
		"last one counts": {[]*spb.Rule{{Action: deny, Selector: sel("*", 0)}, {Action: allow, Selector: sel("docker-image://a*", 0)}}, "docker-image://a", "docker-image://a"},
		"exact is exact":  {[]*spb.Rule{{Action: deny, Selector: sel("docker-image://*", spb.MatchType_EXACT)}}, "docker-image://a", "docker-image://a"},
		"wildcard group": {[]*spb.Rule{{Action: convert, Selector: sel("docker-image://docker.io/library/golang:*", 0),
			Updates: &spb.Update{Identifier: "docker-image://docker.io/library/golang:${1}-alpine"}},
			{Action: deny, Selector: sel("docker-image://none", 0)}}, "docker-image://docker.io/library/golang:1.19", "loop"},
		"regex group": {[]*spb.Rule{{Action: convert, Selector: sel(`^docker-image://docker\.io/(.*)$`, spb.MatchType_REGEX),
			Updates: &spb.Update{Identifier: "docker-image://mirror.example/${1}"}}}, "docker-image://docker.io/library/a", "docker-image://mirror.example/library/a"},
		"converted and denied": {[]*spb.Rule{{Action: convert, Selector: sel("docker-image://a", spb.MatchType_EXACT), Updates: &spb.Update{Identifier: "docker-image://b"}},
			{Action: deny, Selector: sel("docker-image://b", spb.MatchType_EXACT)}}, "docker-image://a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := New(&spb.Policy{Version: 1, Rules: c.rules})
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.Apply(&pb.SourceOp{Identifier: c.in})
			switch {
			case c.want == "loop":
				if err == nil || !strings.Contains(err.Error(), "more than") {
					t.Errorf("a rule that matches its own result gives %v, %v", got, err)
				}
			case c.want == "":
				if !errors.Is(err, ErrDenied) {
					t.Errorf("got %v, %v", got, err)
				}
			case err != nil || got.Identifier != c.want:
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, r := range []*spb.Rule{
		nil, {}, {Selector: sel("(", spb.MatchType_REGEX)}, {Selector: sel("x", 9)}, {Action: 9, Selector: sel("x", 0)},
		{Action: spb.PolicyAction_CONVERT, Selector: sel("x", 0)},
		{Selector: &spb.Selector{Identifier: "x", Constraints: []*spb.AttrConstraint{{Key: "k", Value: "(", Condition: spb.AttrMatch_MATCHES}}}},
	} {
		if _, err := New(&spb.Policy{Rules: []*spb.Rule{r}}); err == nil {
			t.Errorf("rule %v is taken", r)
		}
	}
}
