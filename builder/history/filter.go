package history

import (
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	control "github.com/moby/buildkit/api/services/control"
)

// filter reads history filters as BuildKit has them: each is a comma-separated
// list of conditions that must all hold, and one of the filters must match.
// Conditions are containerd's on ref, status and repository, and comparisons of
// startedAt, completedAt (a duration ago, or RFC 3339) and duration.
func filter(in []string) (func(*control.BuildHistoryRecord) bool, error) {
	if len(in) == 0 {
		return func(*control.BuildHistoryRecord) bool { return true }, nil
	}
	var any []func(*control.BuildHistoryRecord) bool
	for _, f := range in {
		all, err := conditions(f)
		if err != nil {
			return nil, fmt.Errorf("history filter %q: %w", f, err)
		}
		any = append(any, all)
	}
	return func(r *control.BuildHistoryRecord) bool {
		for _, f := range any {
			if f(r) {
				return true
			}
		}
		return false
	}, nil
}

func conditions(f string) (func(*control.BuildHistoryRecord) bool, error) {
	var times []func(*control.BuildHistoryRecord) bool
	var static []string
	for _, c := range strings.Split(f, ",") {
		cmp, err := comparison(c)
		if err != nil {
			return nil, err
		}
		if cmp == nil {
			static = append(static, c)
		} else {
			times = append(times, cmp)
		}
	}
	rest, err := filters.ParseAll(strings.Join(static, ","))
	if err != nil {
		return nil, err
	}
	return func(r *control.BuildHistoryRecord) bool {
		for _, t := range times {
			if !t(r) {
				return false
			}
		}
		return rest.Match(fields(r))
	}, nil
}

// comparison reads KEY OP VALUE; nil if the condition is none on time.
func comparison(c string) (func(*control.BuildHistoryRecord) bool, error) {
	i := strings.IndexAny(c, "<>")
	if i < 0 {
		return nil, nil
	}
	key, value := c[:i], strings.TrimPrefix(c[i+1:], "=")
	less, equal := c[i] == '<', len(value) < len(c)-i-1
	var of func(*control.BuildHistoryRecord) int64
	var want int64
	switch key {
	case "startedAt", "completedAt":
		t, err := moment(value)
		if err != nil {
			return nil, err
		}
		want = t.Unix()
		of = func(r *control.BuildHistoryRecord) int64 {
			if key == "startedAt" {
				return r.CreatedAt.AsTime().Unix()
			}
			return r.CompletedAt.AsTime().Unix()
		}
	case "duration":
		d, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("duration %q: want a number with a unit such as 90s", value)
		}
		want = int64(d)
		of = func(r *control.BuildHistoryRecord) int64 {
			return int64(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime()))
		}
	default:
		return nil, nil
	}
	return func(r *control.BuildHistoryRecord) bool {
		v := of(r)
		return (equal && v == want) || (less && v < want) || (!less && v > want)
	}, nil
}

func moment(s string) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("time %q: want a duration ago such as 24h, or RFC 3339", s)
	}
	return t, nil
}

func fields(r *control.BuildHistoryRecord) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch strings.Join(path, ".") {
		case "ref":
			return r.Ref, true
		case "status":
			switch {
			case r.CompletedAt == nil:
				return "running", true
			case r.Error == nil:
				return "completed", true
			case strings.Contains(r.Error.Message, "context canceled"):
				return "canceled", true
			default:
				return "error", true
			}
		case "repository":
			if v, ok := r.FrontendAttrs["vcs:source"]; ok {
				return v, true
			}
			repo, _, _ := strings.Cut(r.FrontendAttrs["context"], "#")
			return repo, strings.Contains(repo, "://") || strings.HasPrefix(repo, "git@")
		default:
			return "", false
		}
	})
}
