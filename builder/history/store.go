package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/builder/trace"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver/progress"
	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Media types of what a record points to.
const (
	mediaTypeStatus = "application/vnd.buildkit.status.v0"
	mediaTypeError  = "application/vnd.googleapis.google.rpc.status+proto"
)

// ErrNotFound is returned for a build that there is no record of.
var ErrNotFound = errors.New("no record of this build")

var (
	recordsBucket = []byte("records")
	stepsBucket   = []byte("steps")  // by the build's ref, explainv1.WhyResponse with the steps alone
	missesBucket  = []byte("misses") // of versions before, removed
)

// Config says what is kept.
type Config struct {
	Path  string // of the database
	Blobs content.Store
	// MaxEntries and MaxAge bound the records that are not pinned; defaults are
	// 50 entries and 48 hours, as BuildKit's. Zero entries record nothing.
	MaxEntries *int64
	MaxAge     time.Duration
	// Traces records the spans of builds; nil records none.
	Traces *trace.Recorder
	Log    *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxEntries == nil {
		n := int64(50)
		if c.MaxAge > 0 { // a daemon that names an age means all of that age
			n = 1 << 40
		}
		c.MaxEntries = &n
	}
	if c.MaxAge == 0 {
		c.MaxAge = 48 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Store is the history of a daemon. It is safe for concurrent use.
type Store struct {
	Config
	db *bolt.DB

	closing chan struct{}
	writers sync.WaitGroup // finalizers, and who writes what is pending

	mu     sync.Mutex // guards what follows
	active map[string]*control.BuildHistoryRecord
	open   map[string]*finalizer
	late   pending
	subs   map[chan *control.BuildHistoryEvent]bool
}

// Open opens the history at c.Path, making it if there is none.
func Open(c Config) (*Store, error) {
	db, err := bolt.Open(c.Path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open history %s: %w", c.Path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(missesBucket); err != nil && !errors.Is(err, berrors.ErrBucketNotFound) {
			return err
		}
		for _, b := range [][]byte{recordsBucket, stepsBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open history %s: %w", c.Path, err), db.Close())
	}
	return &Store{
		Config: c.withDefaults(), db: db, active: map[string]*control.BuildHistoryRecord{}, subs: map[chan *control.BuildHistoryEvent]bool{},
		open: map[string]*finalizer{}, closing: make(chan struct{}), late: newPending(),
	}, nil
}

// Close writes what is pending and closes the database. No build may be started
// after it.
func (s *Store) Close() error {
	close(s.closing)
	s.writers.Wait()
	return s.db.Close()
}

// Start implements builder.Recorder.
func (s *Store) Start(ctx context.Context, req *control.SolveRequest, log *progress.Log) func(context.Context, builder.Outcome) bool {
	if *s.MaxEntries == 0 {
		return func(ctx context.Context, out builder.Outcome) bool {
			s.writers.Go(func() { out.Steps(ctx) })
			return false
		}
	}
	spans := s.Traces.Begin(ctx)
	rec := &control.BuildHistoryRecord{
		Ref: req.Ref, Frontend: req.Frontend, FrontendAttrs: req.FrontendAttrs, Exporters: req.Exporters, CreatedAt: timestamppb.Now(),
	}
	s.mu.Lock()
	s.active[rec.Ref] = rec
	s.publishLocked(control.BuildHistoryEventType_STARTED, rec)
	s.mu.Unlock()
	return func(ctx context.Context, out builder.Outcome) bool {
		e := newEntry(proto.Clone(rec).(*control.BuildHistoryRecord))
		at := time.Now()
		e.rec.CompletedAt = timestamppb.New(at)
		f := s.keep(ctx, e)
		s.writers.Go(func() {
			if err := s.finish(ctx, e, log, out); err != nil {
				s.Log.Error("record build", "ref", rec.Ref, "error", err)
			}
			s.ready(e)
			if err := spans.End(ctx, rec.Ref, at, out.Err, log.Follow); err != nil {
				s.Log.Error("record build", "ref", rec.Ref, "error", err)
			}
			s.complete(ctx, rec.Ref, spans, f)
		})
		return true
	}
}

// finish completes a record.
func (s *Store) finish(ctx context.Context, e *entry, log *progress.Log, out builder.Outcome) error {
	steps := out.Steps(ctx) // first: it remembers the build whatever becomes of the record
	rec := e.rec
	rec.ExporterResponse = response(out)
	n := log.Counts()
	rec.NumCachedSteps, rec.NumTotalSteps, rec.NumCompletedSteps, rec.NumWarnings = int32(n.Cached), int32(n.Total), int32(n.Completed), int32(n.Warnings)
	e.results(out.Results)
	data, err := encodeLog(ctx, log)
	if err != nil {
		return err
	}
	rec.Logs = e.blob(mediaTypeStatus, data)
	if err := e.attest(ctx, out.Attested); err != nil { // no reason to lose the rest
		s.Log.Error("record provenance of build", "ref", rec.Ref, "error", err)
	}
	if out.Err != nil {
		if err := e.fail(ctx, out.Err); err != nil {
			return err
		}
	}
	if e.steps, err = proto.Marshal(&explainv1.WhyResponse{Steps: steps}); err != nil {
		return fmt.Errorf("save why steps ran: %w", err)
	}
	return nil
}
