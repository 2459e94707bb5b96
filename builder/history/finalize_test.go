package history

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/builder/trace"
	"github.com/buildd/buildd/cache/blob"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver/progress"
	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	blobs, err := blob.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Path: filepath.Join(dir, "history.db"), Blobs: blobs, Traces: trace.NewRecorder()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// record records a build that attests to two things.
func record(ctx context.Context, s *Store, ref string, err error) {
	log := &progress.Log{}
	done := s.Start(ctx, &control.SolveRequest{Ref: ref, Frontend: "dockerfile.v0"}, log)
	log.Begin("a task").End(nil)
	log.Close()
	attested := func(platform, text string, err error) builder.Attested {
		return builder.Attested{Platform: platform, PredicateType: "type", Predicate: func(context.Context) ([]byte, error) { return []byte(text), err }}
	}
	steps := func(context.Context) []*explainv1.Step { return []*explainv1.Step{{Number: 7, Name: "step of " + ref}} }
	done(ctx, builder.Outcome{Err: err, Steps: steps, Attested: []builder.Attested{
		attested("", "one", nil), attested("linux/arm64", "other", nil), attested("linux/s390x", "", errors.New("cannot be told")),
	}})
}

func (s *Store) read(t *testing.T, d *control.Descriptor) string {
	t.Helper()
	if d == nil {
		t.Fatal("there is no blob")
	}
	b, err := content.ReadBlob(t.Context(), s.Blobs, ocispecs.Descriptor{Digest: digest.Digest(d.Digest), Size: d.Size})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFinalize(t *testing.T) {
	s := openStore(t, t.TempDir())
	defer s.Close()
	events := make(chan *control.BuildHistoryEvent, 10)
	ctx, cancel := context.WithCancel(t.Context())
	listened := make(chan error, 1)
	// A build that runs already is told of at once, which says that who listens
	// is heard.
	s.Start(t.Context(), &control.SolveRequest{Ref: "running"}, &progress.Log{})
	go func() {
		listened <- s.Listen(ctx, &control.BuildHistoryRequest{}, func(e *control.BuildHistoryEvent) error {
			events <- e
			return nil
		})
	}()
	<-events
	record(t.Context(), s, "build", nil)
	rec, err := s.get("build")
	if err != nil || rec.Trace != nil {
		t.Fatalf("before it is final: %v %v", rec.GetTrace(), err)
	}
	begin := time.Now()
	for range 2 { // the second time there is nothing to do
		if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "build", Finalize: true}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > finalizeAfter/2 {
		t.Errorf("it took %s", took)
	}
	if rec, err = s.get("build"); err != nil {
		t.Fatal(err)
	}
	if got := s.read(t, rec.Trace); !strings.Contains(got, `"a task"`) || rec.Trace.MediaType != mediaTypeTrace {
		t.Errorf("%s:\n%s", rec.Trace.MediaType, got)
	}
	if a := rec.Result.Attestations; len(a) != 1 || s.read(t, a[0]) != "one" || a[0].MediaType != mediaTypeInToto || a[0].Annotations[annotationPredicate] != "type" {
		t.Errorf("attestations %v", a)
	}
	if a := rec.Results["linux/arm64"].GetAttestations(); len(a) != 1 || s.read(t, a[0]) != "other" {
		t.Errorf("attestations %v", a)
	}
	roots, err := s.Roots(t.Context())
	if err != nil || len(roots) != 4 { // with the log
		t.Errorf("roots %v %v", roots, err)
	}
	cancel()
	<-listened
	var types []string
	for len(events) > 0 {
		e := <-events
		types = append(types, e.Type.String())
		if len(types) == 3 && e.Record.Trace == nil {
			t.Error("who listens does not see the trace")
		}
	}
	if got := strings.Join(types, " "); got != "STARTED COMPLETE COMPLETE" {
		t.Errorf("events %s", got)
	}
}

func TestCloseSavesTraces(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	record(t.Context(), s, "build", errors.New("broken"))
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > finalizeAfter/2 {
		t.Errorf("it took %s", took)
	}
	s = openStore(t, dir)
	defer s.Close()
	rec, err := s.get("build")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.read(t, rec.Trace); !strings.Contains(got, "broken") {
		t.Errorf("trace %s", got)
	}
}

func TestDeleteBeforeFinal(t *testing.T) {
	s := openStore(t, t.TempDir())
	defer s.Close()
	record(t.Context(), s, "build", nil)
	if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "build", Delete: true}); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.get("build"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v %v", rec, err)
	}
	if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "build", Pinned: true}); !errors.Is(err, ErrNotFound) {
		t.Errorf("pinned what is gone: %v", err)
	}
}
