package explainapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/buildd/buildd/builder/history"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	control "github.com/moby/buildkit/api/services/control"
)

// records answers with one build or with an error.
type records struct {
	steps []*explainv1.Step
	err   error
}

func (r records) Find(build string) (*control.BuildHistoryRecord, error) {
	if r.err != nil {
		return nil, r.err
	}
	return &control.BuildHistoryRecord{Ref: "ref of " + build, CreatedAt: timestamppb.New(time.Unix(1, 2)), CompletedAt: timestamppb.New(time.Unix(3, 4))}, nil
}

func (r records) Steps(string) ([]*explainv1.Step, error) { return r.steps, nil }

func TestWhy(t *testing.T) {
	s := New(records{steps: []*explainv1.Step{
		{Number: 2, Name: "[internal] load build context"}, {Number: 5, Name: "[build  3/14] COPY . ."}, {Number: 6, Name: "[build 13/14] RUN make"},
		{Number: 7, Name: "[linux/arm64 stage-1 3/4] COPY --from=build /app /app"},
	}})
	for step, want := range map[string][]int32{
		"": {2, 5, 6, 7}, "5": {5}, "#7": {7}, " 6 ": {6}, "copy": {5, 7}, "RUN make": {6}, "3/14": {5}, "[build 3/14]": {5}, "build 13/14": {6}, "13/14": {6},
		"3/4": {7}, "stage-1 3/4": {7}, "linux/arm64": {7}, "internal": {2},
	} {
		resp, err := s.Why(t.Context(), &explainv1.WhyRequest{Build: "b", Step: step})
		if err != nil {
			t.Errorf("step %q: %v", step, err)
			continue
		}
		var got []int32
		for _, s := range resp.Steps {
			got = append(got, s.Number)
		}
		if !slices.Equal(got, want) || resp.Build != "ref of b" || resp.CreatedNs != 1e9+2 || resp.CompletedNs != 3e9+4 {
			t.Errorf("step %q: got %v, want %v of %v", step, got, want, resp)
		}
	}
	for step, want := range map[string]codes.Code{
		"0": codes.InvalidArgument, "-1": codes.InvalidArgument, "#0": codes.InvalidArgument, "8": codes.OutOfRange, "99999999999999": codes.OutOfRange,
		"1": codes.NotFound, "nosuch": codes.NotFound, "9/9": codes.NotFound, "4": codes.NotFound,
	} {
		_, err := s.Why(t.Context(), &explainv1.WhyRequest{Step: step})
		if status.Code(err) != want || !strings.Contains(err.Error(), strings.TrimPrefix(step, "#")) {
			t.Errorf("step %q: %v, want %v", step, err, want)
		}
	}
}

func TestErrorsHaveCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("build %q: %w", "x", history.ErrNotFound), codes.NotFound},
		{fmt.Errorf("build %q: %w", "x", history.ErrRunning), codes.FailedPrecondition},
		{&history.AmbiguousError{Prefix: "x", Refs: []string{"xa", "xb"}}, codes.InvalidArgument},
		{errors.New("disk"), codes.Unknown},
	} {
		_, err := New(records{err: c.err}).Why(t.Context(), &explainv1.WhyRequest{Build: "x"})
		if status.Code(err) != c.want || !strings.Contains(err.Error(), c.err.Error()) {
			t.Errorf("%v became %v", c.err, err)
		}
	}
}
