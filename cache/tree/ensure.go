package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocidigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/cache/layer"
)

// Ensure brings the files of all layers of a tree: blobs that are not here are
// fetched through p, all at a time, verified, and unpacked, each as soon as the
// layers that it needs are there. What several callers need is fetched and
// unpacked once, and stopped when the last of them is cancelled.
func (s *Store) Ensure(ctx context.Context, t cache.Tree, p Provider, progress Progress) error {
	n, release, err := s.hold(t)
	if err != nil {
		return err
	}
	defer release()
	missing, err := s.missing(n.chain())
	if err != nil || len(missing) == 0 {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range missing {
		g.Go(func() error {
			if err := s.ensure(ctx, m, fetcher{p, progress}); err != nil {
				return fmt.Errorf("layer %s: %w", m.id, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("bring tree %s: %w", t, err)
	}
	return nil
}

// want is a layer that Ensure has to bring.
type want struct {
	*layerRecord
	desc    ocispecs.Descriptor
	sources []string
}

// missing returns the layers of a chain that are not here, and those below them
// in their images, which may be in no tree of the caller's, bottom first.
func (s *Store) missing(chain []*layerRecord) ([]want, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []want
	seen := map[*layerRecord]bool{}
	for _, top := range chain {
		var open []*layerRecord
		for r := top; r != nil && r.Dir == "" && !seen[r]; r = s.layers[r.Parent] {
			seen[r] = true
			open = append(open, r)
		}
		for i := len(open) - 1; i >= 0; i-- {
			r := open[i]
			if r.Desc == nil {
				return nil, fmt.Errorf("layer %s: its files are gone: %w", r.id, cache.ErrNotFound)
			}
			out = append(out, want{r, *r.Desc, append([]string(nil), r.Sources...)})
		}
	}
	return out, nil
}

func (s *Store) ensure(ctx context.Context, w want, f fetcher) error {
	for again := false; ; again = true {
		if err := s.fetch(ctx, w.desc, w.sources, f); err != nil {
			return s.lost(ctx, w.layerRecord, err)
		}
		_, err := s.unpacks.Do(ctx, w.id, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, struct{}]) (struct{}, error) {
			return struct{}{}, s.unpack(ctx, w)
		})
		if err == nil {
			f.report(w.desc, w.desc.Size, true)
			return nil
		}
		if again || ctx.Err() != nil || !s.dropDamaged(ctx, w.desc) {
			if errors.Is(err, errDiffID) {
				err = s.lost(ctx, w.layerRecord, err)
			}
			return err
		}
	}
}

// dropDamaged removes a blob whose bytes rotted in the store, and tells whether
// it did.
func (s *Store) dropDamaged(ctx context.Context, desc ocispecs.Descriptor) bool {
	ra, err := s.cfg.Blobs.ReaderAt(ctx, desc)
	if err != nil {
		return false
	}
	defer ra.Close()
	v := desc.Digest.Verifier()
	if _, err := io.Copy(v, content.NewReader(ra)); err == nil && v.Verified() {
		return false
	}
	s.cfg.Log.Error("a blob is damaged on disk, it is fetched again", "blob", desc.Digest)
	return s.cfg.Blobs.Delete(ctx, desc.Digest) == nil
}

var errDiffID = errors.New("what it unpacks to has another diff ID")

// unpack makes a layer's directory of its blob.
func (s *Store) unpack(ctx context.Context, w want) (err error) {
	if s.ready(w.layerRecord) {
		return nil // by a flight that has just ended
	}
	// Released while the unpacking waits for other layers, which need it.
	slot := &slot{free: s.slots}
	if err := slot.take(ctx); err != nil {
		return err
	}
	defer slot.release()
	d, err := s.newDraft(ctx, "")
	if err != nil {
		return err
	}
	defer func() {
		if derr := d.Discard(); derr != nil {
			err = errors.Join(err, derr)
		}
	}()
	x, err := s.unpackBlob(ctx, w, d.Dir, slot)
	if err != nil {
		return err
	}
	if _, err := d.finish(ctx, x); err != nil {
		return err
	}
	s.setReady(w.layerRecord, d.id, x)
	d.end()
	return nil
}

func (s *Store) unpackBlob(ctx context.Context, w want, dir string, slot *slot) (*digest.Index, error) {
	ra, err := s.cfg.Blobs.ReaderAt(ctx, w.desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	r, err := layer.NewReader(content.NewReader(ra), w.desc.MediaType)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v := ocidigest.SHA256.Digester()
	x, err := layer.Unpack(ctx, io.TeeReader(r, v.Hash()), dir, layer.UnpackOptions{
		UserXattr: s.cfg.Rootless, IgnoreOwner: s.cfg.IgnoreOwner,
		WaitLower: func(ctx context.Context) (*digest.View, error) {
			slot.release()
			v, err := s.below(ctx, w.layerRecord)
			if err != nil {
				return nil, err
			}
			return v, slot.take(ctx)
		},
	})
	if err != nil {
		return nil, err
	}
	if got := v.Digest(); got != w.DiffID {
		return nil, fmt.Errorf("blob %s: %w: it is %s, the image says %s", w.desc.Digest, errDiffID, got, w.DiffID)
	}
	return x, nil
}

// slot is the right to unpack a layer now.
type slot struct {
	free  chan struct{} // as many elements as slots are taken
	taken bool
}

func (l *slot) take(ctx context.Context) error {
	select {
	case l.free <- struct{}{}:
		l.taken = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *slot) release() {
	if l.taken {
		l.taken = false
		<-l.free
	}
}

// below returns what lies below a layer in its image, once that is there. A
// layer that is there already, or is not known any more, ends the wait.
func (s *Store) below(ctx context.Context, r *layerRecord) (*digest.View, error) {
	for {
		chain, wait := s.parents(r)
		if wait == nil {
			return s.viewOf(ctx, chain)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// parents returns the layers below r in its image, bottom first; wait is not nil
// if one of them is not ready yet.
func (s *Store) parents(r *layerRecord) (chain []*layerRecord, wait <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := r.Parent; id != ""; {
		below, ok := s.layers[id]
		if !ok {
			break
		}
		if below.Dir == "" {
			return nil, s.changed
		}
		chain = append(chain, below)
		id = below.Parent
	}
	for i, j := 0, len(chain)-1; i < j; i, j = i+1, j-1 {
		chain[i], chain[j] = chain[j], chain[i]
	}
	return chain, nil
}

func (s *Store) ready(r *layerRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.Dir != ""
}

func (s *Store) setReady(r *layerRecord, dir string, x *digest.Index) {
	size := diskSize(x)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Dir, r.Size, r.Created = dir, size, time.Now().UTC()
	s.dirtyLayers[r.id] = struct{}{}
	close(s.changed)
	s.changed = make(chan struct{})
}
