package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/builder/trace"
	"github.com/buildd/buildd/solver/progress"
	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc/status"
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
	missesBucket  = []byte("misses")
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
	tracing sync.WaitGroup // of finalizers

	mu     sync.Mutex // guards what follows
	active map[string]*control.BuildHistoryRecord
	open   map[string]*finalizer
	subs   map[chan *control.BuildHistoryEvent]bool
}

// Open opens the history at c.Path, making it if there is none.
func Open(c Config) (*Store, error) {
	db, err := bolt.Open(c.Path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open history %s: %w", c.Path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{recordsBucket, missesBucket} {
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
		open: map[string]*finalizer{}, closing: make(chan struct{}),
	}, nil
}

// Close saves the traces of the last builds and closes the database. No build may
// be started after it.
func (s *Store) Close() error {
	close(s.closing)
	s.tracing.Wait()
	return s.db.Close()
}

// Start implements builder.Recorder.
func (s *Store) Start(ctx context.Context, req *control.SolveRequest, log *progress.Log) func(context.Context, builder.Outcome) {
	if *s.MaxEntries == 0 {
		return func(context.Context, builder.Outcome) {}
	}
	spans := s.Traces.Begin(ctx)
	rec := &control.BuildHistoryRecord{
		Ref: req.Ref, Frontend: req.Frontend, FrontendAttrs: req.FrontendAttrs, Exporters: req.Exporters, CreatedAt: timestamppb.Now(),
	}
	s.mu.Lock()
	s.active[rec.Ref] = rec
	s.publishLocked(control.BuildHistoryEventType_STARTED, rec)
	s.mu.Unlock()
	return func(ctx context.Context, out builder.Outcome) {
		done := proto.Clone(rec).(*control.BuildHistoryRecord)
		if err := s.finish(ctx, done, log, out); err != nil {
			s.Log.Error("record build", "ref", rec.Ref, "error", err)
		}
		if err := spans.End(ctx, rec.Ref, out.Err, log.Follow); err != nil {
			s.Log.Error("record build", "ref", rec.Ref, "error", err)
		}
		s.finalizeLater(ctx, rec.Ref, spans)
		s.mu.Lock()
		delete(s.active, rec.Ref)
		s.publishLocked(control.BuildHistoryEventType_COMPLETE, done)
		s.mu.Unlock()
		if err := s.trim(); err != nil {
			s.Log.Error("trim history", "error", err)
		}
	}
}

// finish completes a record and saves it.
func (s *Store) finish(ctx context.Context, rec *control.BuildHistoryRecord, log *progress.Log, out builder.Outcome) error {
	rec.CompletedAt = timestamppb.Now()
	rec.ExporterResponse = out.Response
	n := log.Counts()
	rec.NumCachedSteps, rec.NumTotalSteps, rec.NumCompletedSteps, rec.NumWarnings = int32(n.Cached), int32(n.Total), int32(n.Completed), int32(n.Warnings)
	for i, r := range out.Results {
		if r == nil || r.Descriptor == nil {
			continue
		}
		if rec.Result == nil {
			rec.Result = &control.BuildResultInfo{Results: map[int64]*control.Descriptor{}}
		}
		d := descriptor(*r.Descriptor)
		rec.Result.Results[int64(i)] = d
		if rec.Result.ResultDeprecated == nil {
			rec.Result.ResultDeprecated = d
		}
	}
	var err error
	if rec.Logs, err = s.saveLog(ctx, rec.Ref, log); err != nil {
		return err
	}
	if err := s.saveAttested(ctx, rec, out.Attested); err != nil { // no reason to lose the rest
		s.Log.Error("record provenance of build", "ref", rec.Ref, "error", err)
	}
	if out.Err != nil {
		st, ok := grpcerrors.AsGRPCStatus(grpcerrors.ToGRPC(ctx, out.Err))
		if !ok {
			st = status.New(grpcerrors.Code(out.Err), out.Err.Error())
		}
		p := st.Proto()
		b, err := proto.Marshal(p)
		if err != nil {
			return fmt.Errorf("save error: %w", err)
		}
		if rec.ExternalError, err = s.saveBlob(ctx, mediaTypeError, b); err != nil {
			return err
		}
		p.Details = nil // they are in the blob
		rec.Error = p
	}
	misses, err := json.Marshal(log.Misses())
	if err != nil {
		return fmt.Errorf("save misses: %w", err)
	}
	return s.put(rec, misses)
}

func (s *Store) put(rec *control.BuildHistoryRecord, misses []byte) error {
	b, err := proto.Marshal(rec)
	if err != nil {
		return fmt.Errorf("save record: %w", err)
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		if misses != nil {
			if err := tx.Bucket(missesBucket).Put([]byte(rec.Ref), misses); err != nil {
				return err
			}
		}
		return tx.Bucket(recordsBucket).Put([]byte(rec.Ref), b)
	})
}

func (s *Store) saveBlob(ctx context.Context, mediaType string, b []byte) (*control.Descriptor, error) {
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	w, err := content.OpenWriter(ctx, s.Blobs, content.WithRef("history-"+d.Digest.String()), content.WithDescriptor(d))
	if err != nil {
		return descriptor(d), ignoreExists(err)
	}
	defer w.Close()
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("save %s: %w", mediaType, err)
	}
	return descriptor(d), ignoreExists(w.Commit(ctx, d.Size, d.Digest))
}

func descriptor(d ocispecs.Descriptor) *control.Descriptor {
	return &control.Descriptor{MediaType: d.MediaType, Digest: string(d.Digest), Size: d.Size, Annotations: d.Annotations}
}

// all returns the records, newest first.
func (s *Store) all() ([]*control.BuildHistoryRecord, error) {
	var out []*control.BuildHistoryRecord
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(recordsBucket).ForEach(func(ref, b []byte) error {
			rec := &control.BuildHistoryRecord{}
			if err := proto.Unmarshal(b, rec); err != nil {
				return fmt.Errorf("read record of build %s: %w", ref, err)
			}
			out = append(out, rec)
			return nil
		})
	})
	slices.SortFunc(out, func(a, b *control.BuildHistoryRecord) int { return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime()) })
	return out, err
}

func (s *Store) get(ref string) (*control.BuildHistoryRecord, error) {
	rec := &control.BuildHistoryRecord{}
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("build %q: %w", ref, ErrNotFound)
		}
		return proto.Unmarshal(b, rec)
	})
	return rec, err
}

// trim removes the records that are too old or too many.
func (s *Store) trim() error {
	recs, err := s.all()
	if err != nil {
		return err
	}
	kept := int64(0)
	for _, r := range recs {
		if r.Pinned {
			continue
		}
		if kept++; kept <= *s.MaxEntries && time.Since(r.CompletedAt.AsTime()) < s.MaxAge {
			continue
		}
		if err := s.remove(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remove(rec *control.BuildHistoryRecord) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(missesBucket).Delete([]byte(rec.Ref)); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).Delete([]byte(rec.Ref))
	})
	if err != nil {
		return fmt.Errorf("remove record of build %s: %w", rec.Ref, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked(control.BuildHistoryEventType_DELETED, rec)
	return nil
}

// Update implements UpdateBuildHistory: it completes, pins, unpins or deletes a
// record.
func (s *Store) Update(ctx context.Context, req *control.UpdateBuildHistoryRequest) error {
	if req.Finalize || req.Delete {
		if err := s.finalize(ctx, req.Ref); err != nil {
			return err
		}
	}
	switch {
	case req.Delete:
		rec, err := s.get(req.Ref)
		if err != nil {
			return err
		}
		return s.remove(rec)
	case req.Finalize:
		return nil
	default:
		return s.modify(req.Ref, func(r *control.BuildHistoryRecord) { r.Pinned = req.Pinned })
	}
}

// modify changes a record and tells those who listen.
func (s *Store) modify(ref string, change func(*control.BuildHistoryRecord)) error {
	rec := &control.BuildHistoryRecord{}
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(recordsBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("build %q: %w", ref, ErrNotFound)
		}
		if err := proto.Unmarshal(b, rec); err != nil {
			return fmt.Errorf("read record of build %s: %w", ref, err)
		}
		change(rec)
		rec.Generation++
		b, err := proto.Marshal(rec)
		if err != nil {
			return fmt.Errorf("save record: %w", err)
		}
		return tx.Bucket(recordsBucket).Put([]byte(ref), b)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishLocked(control.BuildHistoryEventType_COMPLETE, rec)
	return nil
}

// Misses returns why the steps of a build ran.
func (s *Store) Misses(ref string) ([]progress.Miss, error) {
	var out []progress.Miss
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(missesBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("build %q: %w", ref, ErrNotFound)
		}
		return json.Unmarshal(b, &out)
	})
	return out, err
}

// Roots lists what the records point to: logs, errors, traces, attestations and
// the images themselves, so that a record shows what it says for as long as it
// is kept.
func (s *Store) Roots(context.Context) ([]ocispecs.Descriptor, error) {
	recs, err := s.all()
	if err != nil {
		return nil, err
	}
	var out []ocispecs.Descriptor
	add := func(ds ...*control.Descriptor) {
		for _, d := range ds {
			if d != nil {
				out = append(out, ocispecs.Descriptor{MediaType: d.MediaType, Digest: digest.Digest(d.Digest), Size: d.Size})
			}
		}
	}
	for _, r := range recs {
		add(r.Logs, r.Trace, r.ExternalError)
		infos := []*control.BuildResultInfo{r.Result}
		for _, i := range r.Results {
			infos = append(infos, i)
		}
		for _, i := range infos {
			add(i.GetAttestations()...)
			for _, d := range i.GetResults() {
				add(d)
			}
		}
	}
	return out, nil
}
