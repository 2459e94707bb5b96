package explainapi

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
)

// ofStage matches the place of a step in its stage: "3/4", "[build 3/4]".
var ofStage = regexp.MustCompile(`^\[?[^\[\]]*\d+/\d+\]?$`)

// choose returns the steps that a text selects, as WhyRequest.step has it.
func choose(steps []*explainv1.Step, text string) ([]*explainv1.Step, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return steps, nil
	}
	if n, err := strconv.ParseInt(strings.TrimPrefix(text, "#"), 10, 64); err == nil {
		return numbered(steps, n)
	}
	matches := func(s *explainv1.Step) bool { return strings.Contains(strings.ToLower(s.Name), strings.ToLower(text)) }
	if ofStage.MatchString(text) {
		want := fields(text)
		matches = func(s *explainv1.Step) bool {
			in, _, ok := strings.Cut(s.Name, "]")
			have := fields(in)
			return ok && strings.HasPrefix(in, "[") && len(have) >= len(want) && slices.Equal(have[len(have)-len(want):], want)
		}
	}
	var out []*explainv1.Step
	for _, s := range steps {
		if matches(s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, status.Errorf(codes.NotFound, "step %q: the build has none of that name, see all of its steps without naming one", text)
	}
	return out, nil
}

func fields(place string) []string { return strings.Fields(strings.Trim(place, "[]")) }

// numbered returns the one step with a number.
func numbered(steps []*explainv1.Step, n int64) ([]*explainv1.Step, error) {
	if n < 1 {
		return nil, status.Errorf(codes.InvalidArgument, "step %d: the numbers of steps begin with 1", n)
	}
	last := int64(0)
	for _, s := range steps {
		if int64(s.Number) == n {
			return []*explainv1.Step{s}, nil
		}
		last = max(last, int64(s.Number))
	}
	if n > last {
		return nil, status.Errorf(codes.OutOfRange, "step %d: the last step of the build has number %d", n, last)
	}
	return nil, status.Errorf(codes.NotFound, "step %d: it is no step of the Dockerfile or definition, but other work of the build", n)
}
