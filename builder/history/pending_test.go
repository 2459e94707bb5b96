package history

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// gated is a blob store on a disk that does not write until gate is closed.
type gated struct {
	content.Store
	gate chan struct{}
	err  error
}

func (g gated) Writer(ctx context.Context, o ...content.WriterOpt) (content.Writer, error) {
	<-g.gate
	if g.err != nil {
		return nil, g.err
	}
	return g.Store.Writer(ctx, o...)
}

func TestRecordsDoNotWaitForTheDisk(t *testing.T) {
	s := openStore(t, t.TempDir())
	s.Traces = nil
	disk := gated{Store: s.Blobs, gate: make(chan struct{})}
	s.Blobs = disk
	for i := range 3 {
		record(t.Context(), s, fmt.Sprint("build", i), errors.New("broken"))
	}
	check := func(when string) {
		t.Helper()
		recs, err := s.all()
		if err != nil || len(recs) != 3 {
			t.Fatalf("%s: %d records, %v", when, len(recs), err)
		}
		rec, err := s.get("build1")
		if err != nil || rec.Error.GetMessage() != "broken" {
			t.Errorf("%s: %v %v", when, rec, err)
		}
		if steps, err := s.Steps("build1"); err != nil || len(steps) != 1 || steps[0].Name != "step of build1" {
			t.Errorf("%s: steps %v, %v", when, steps, err)
		}
		events := 0
		if known, err := s.Replay(t.Context(), "build1", func(*control.StatusResponse) error { events++; return nil }); !known || err != nil || events == 0 {
			t.Errorf("%s: %d events, %v", when, events, err)
		}
		d := digest.Digest(rec.Result.Attestations[0].Digest)
		info, err := s.Contents().Info(t.Context(), d)
		if err != nil || info.Size != rec.Result.Attestations[0].Size {
			t.Errorf("%s: %+v %v", when, info, err)
		}
		b, err := content.ReadBlob(t.Context(), s.Contents(), ocispecs.Descriptor{Digest: d})
		if err != nil || string(b) != "one" {
			t.Errorf("%s: %q %v", when, b, err)
		}
		if roots, err := s.Roots(t.Context()); err != nil || len(roots) != 3*4 {
			t.Errorf("%s: %d roots, %v", when, len(roots), err)
		}
	}
	check("before the disk writes")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Update(ctx, &control.UpdateBuildHistoryRequest{Ref: "build1", Pinned: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("pinned what is not written: %v", err)
	}
	close(disk.gate)
	if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "build1", Pinned: true}); err != nil {
		t.Fatal(err)
	}
	if len(s.late.recs)+len(s.late.blobs)+s.late.size != 0 {
		t.Errorf("%+v stays", s.late)
	}
	check("after")
	if known, err := s.Replay(t.Context(), "other", nil); known || err != nil {
		t.Errorf("a build without record: %v %v", known, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDiskThatDoesNotWrite loses records, and nothing else.
func TestDiskThatDoesNotWrite(t *testing.T) {
	s := openStore(t, t.TempDir())
	disk := gated{Store: s.Blobs, gate: make(chan struct{}), err: errors.New("disk is full")}
	close(disk.gate)
	s.Blobs = disk
	record(t.Context(), s, "lost", nil)
	if err := s.Update(t.Context(), &control.UpdateBuildHistoryRequest{Ref: "lost", Finalize: true}); err != nil {
		t.Error(err)
	}
	if rec, err := s.get("lost"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v %v", rec, err)
	}
	if len(s.late.recs)+len(s.late.blobs)+s.late.size != 0 {
		t.Errorf("%+v stays", s.late)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
