package history

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/buildd/buildd/builder"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver/progress"
	control "github.com/moby/buildkit/api/services/control"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := s.Find(""); !errors.Is(err, ErrNotFound) {
		t.Errorf("the latest of no builds: %v", err)
	}
	for _, ref := range []string{"abc", "abd", "abde", "xyz", "runs?"} {
		record(t.Context(), s, ref, nil)
	}
	log := &progress.Log{}
	s.Start(t.Context(), &control.SolveRequest{Ref: "running"}, log)
	check := func() {
		t.Helper()
		for build, want := range map[string]string{"": "runs?", "latest": "runs?", "abc": "abc", "abd": "abd", "abde": "abde", "x": "xyz", "runs": "runs?"} {
			if r, err := s.Find(build); err != nil || r.Ref != want {
				t.Errorf("Find(%q) = %v, %v; want %s", build, r, err, want)
			}
		}
	}
	check()
	for build, want := range map[string]error{"nosuch": ErrNotFound, "abdef": ErrNotFound, "running": ErrRunning, "runn": ErrRunning} {
		if _, err := s.Find(build); !errors.Is(err, want) {
			t.Errorf("Find(%q): %v, want %v", build, err, want)
		}
	}
	for build, want := range map[string][]string{"ab": {"abc", "abd", "abde"}, "run": {"running", "runs?"}} {
		_, err := s.Find(build)
		if e, ok := errors.AsType[*AmbiguousError](err); !ok || !slices.Equal(e.Refs, want) {
			t.Errorf("Find(%q): %v", build, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	defer s.Close()
	check()
	if steps, err := s.Steps("abd"); err != nil || len(steps) != 1 || steps[0].Name != "step of abd" {
		t.Errorf("after a restart: %v, %v", steps, err)
	}
	if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "abd", Delete: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Steps("abd"); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a record that was deleted: %v", err)
	}
}

// TestStepsAreAskedForWithoutHistory holds what the next build is compared with:
// it comes of asking.
func TestStepsAreAskedForWithoutHistory(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.MaxEntries = new(int64)
	done := s.Start(t.Context(), &control.SolveRequest{Ref: "r"}, &progress.Log{})
	var asked atomic.Int32
	done(t.Context(), builder.Outcome{Steps: func(context.Context) []*explainv1.Step { asked.Add(1); return nil }})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}
