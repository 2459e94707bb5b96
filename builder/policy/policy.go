package policy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// ErrDenied is returned, wrapped, for a source that a rule denies.
var ErrDenied = errors.New("source denied by policy")

// maxConverts bounds how often one source may be replaced: rules can lead in a
// circle.
const maxConverts = 20

// Engine applies policies. The zero Engine allows everything.
type Engine struct {
	policies [][]rule
}

// rule is one rule with its patterns compiled.
type rule struct {
	*spb.Rule
	ident *regexp.Regexp // nil for an exact match
	attrs []*regexp.Regexp
}

// New compiles policies. A rule that cannot be understood is an error that names
// it.
func New(policies ...*spb.Policy) (*Engine, error) {
	e := &Engine{}
	for _, p := range policies {
		if p == nil {
			continue
		}
		if p.Version > 1 {
			return nil, fmt.Errorf("source policy has version %d: want 1", p.Version)
		}
		var rules []rule
		for i, r := range p.Rules {
			c, err := compile(r)
			if err != nil {
				return nil, fmt.Errorf("rule %d of the source policy: %w", i+1, err)
			}
			rules = append(rules, c)
		}
		e.policies = append(e.policies, rules)
	}
	return e, nil
}

func compile(r *spb.Rule) (rule, error) {
	c := rule{Rule: r}
	if r == nil || r.Selector == nil {
		return c, errors.New("it has no selector")
	}
	switch r.Action {
	case spb.PolicyAction_ALLOW, spb.PolicyAction_DENY:
	case spb.PolicyAction_CONVERT:
		if r.Updates == nil {
			return c, errors.New("it converts but does not say to what")
		}
	default:
		return c, fmt.Errorf("action %s is not known", r.Action)
	}
	expr := ""
	switch r.Selector.MatchType {
	case spb.MatchType_EXACT:
	case spb.MatchType_WILDCARD:
		expr = wildcard(r.Selector.Identifier)
	case spb.MatchType_REGEX:
		expr = r.Selector.Identifier
	default:
		return c, fmt.Errorf("match type %s is not known", r.Selector.MatchType)
	}
	var err error
	if expr != "" {
		if c.ident, err = regexp.Compile(expr); err != nil {
			return c, fmt.Errorf("identifier %q: %w", r.Selector.Identifier, err)
		}
	}
	for _, a := range r.Selector.Constraints {
		var re *regexp.Regexp
		switch a.GetCondition() {
		case spb.AttrMatch_EQUAL, spb.AttrMatch_NOTEQUAL:
		case spb.AttrMatch_MATCHES:
			if re, err = regexp.Compile(a.Value); err != nil {
				return c, fmt.Errorf("attribute %s: %w", a.Key, err)
			}
		default:
			return c, fmt.Errorf("attribute %s: condition %s is not known", a.GetKey(), a.GetCondition())
		}
		c.attrs = append(c.attrs, re)
	}
	return c, nil
}

// wildcard turns * into a group that matches anything.
func wildcard(pattern string) string {
	parts := strings.Split(pattern, "*")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return "^" + strings.Join(parts, "(.*?)") + "$"
}

func (r rule) matches(s *pb.SourceOp) bool {
	for i, a := range r.Selector.Constraints {
		v := s.Attrs[a.Key]
		switch a.Condition {
		case spb.AttrMatch_EQUAL:
			if v != a.Value {
				return false
			}
		case spb.AttrMatch_NOTEQUAL:
			if v == a.Value {
				return false
			}
		default:
			if !r.attrs[i].MatchString(v) {
				return false
			}
		}
	}
	return r.Selector.Identifier == s.Identifier || (r.ident != nil && r.ident.MatchString(s.Identifier))
}

// convert returns s as the rule wants it, and whether that changed anything.
func (r rule) convert(s *pb.SourceOp) (*pb.SourceOp, bool) {
	to := r.Updates.Identifier
	if to == "" {
		to = r.Selector.Identifier
	}
	if r.ident != nil {
		to = r.ident.ReplaceAllString(s.Identifier, to)
	}
	out := &pb.SourceOp{Identifier: to, Attrs: maps.Clone(s.Attrs)}
	if out.Attrs == nil && len(r.Updates.Attrs) > 0 {
		out.Attrs = map[string]string{}
	}
	maps.Copy(out.Attrs, r.Updates.Attrs)
	return out, out.Identifier != s.Identifier || !maps.Equal(out.Attrs, s.Attrs)
}

// Apply returns what is to be fetched in the place of s, which is s itself if no
// rule says otherwise. Of the rules of one policy that allow or deny the last
// one that matches counts; one that converts starts all over with the result.
func (e *Engine) Apply(s *pb.SourceOp) (*pb.SourceOp, error) {
	if e == nil {
		return s, nil
	}
	for range maxConverts {
		next, err := e.once(s)
		if err != nil || next == nil {
			return s, err
		}
		s = next
	}
	return nil, fmt.Errorf("source %s: the policy replaces it more than %d times", s.Identifier, maxConverts)
}

// once applies all policies until one converts; nil if none does.
func (e *Engine) once(s *pb.SourceOp) (*pb.SourceOp, error) {
	for _, rules := range e.policies {
		denied := false
		for _, r := range rules {
			if !r.matches(s) {
				continue
			}
			if r.Action == spb.PolicyAction_CONVERT {
				if out, changed := r.convert(s); changed {
					return out, nil
				}
				continue
			}
			denied = r.Action == spb.PolicyAction_DENY
		}
		if denied {
			return nil, fmt.Errorf("source %q: %w", s.Identifier, ErrDenied)
		}
	}
	return nil, nil
}

// With returns an engine that applies more policies after those of e.
func (e *Engine) With(policies ...*spb.Policy) (*Engine, error) {
	more, err := New(policies...)
	if err != nil || e == nil {
		return more, err
	}
	return &Engine{policies: append(append([][]rule(nil), e.policies...), more.policies...)}, nil
}
