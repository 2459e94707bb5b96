package local

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"golang.org/x/sync/errgroup"
)

// chunksAhead bounds what is received but not written yet, per worker, in
// packets of up to 32 KiB.
const chunksAhead = 64

// stage writes and hashes the files that arrive, several at a time.
type stage struct {
	c       Config
	workers []chan chunk

	once  sync.Once // makes the draft
	draft *tree.Draft
	err   error

	mu   sync.Mutex      // guards dirs, and the making of them
	dirs map[string]bool // of the draft, made already

	files map[uint32]*received // by number in the list; the receiving goroutine's
}

// received is a file that was asked for. Its worker owns it until run returns.
type received struct {
	id    uint32
	entry digest.Entry // with Hash and Size as they came, when it is done

	f    *os.File
	h    hash.Hash
	size int64
}

type chunk struct {
	r    *received
	data []byte // empty at the end of the file
}

func newStage(c Config) *stage {
	return &stage{c: c, dirs: map[string]bool{".": true}, files: map[uint32]*received{}}
}

// start runs the workers in g until finish. The first error is also given to
// fail.
func (s *stage) start(ctx context.Context, fail func(error), g *errgroup.Group) {
	for range runtime.GOMAXPROCS(0) {
		ch := make(chan chunk, chunksAhead)
		s.workers = append(s.workers, ch)
		g.Go(func() error {
			open := map[*received]struct{}{}
			defer func() {
				for r := range open {
					r.f.Close()
				}
			}()
			for c := range ch {
				if ctx.Err() != nil {
					continue // until the receiver notices
				}
				if err := s.write(ctx, c, open); err != nil {
					fail(err)
				}
			}
			return nil
		})
	}
}

// finish says that no data will come any more.
func (s *stage) finish() {
	for _, ch := range s.workers {
		close(ch)
	}
}

// expect says that the file number id has been asked for.
func (s *stage) expect(id uint32, e digest.Entry) *received {
	r := &received{id: id, entry: e}
	s.files[id] = r
	return r
}

// data passes on some bytes of file id, none at its end.
func (s *stage) data(ctx context.Context, id uint32, data []byte) (end bool, err error) {
	r, ok := s.files[id]
	if !ok {
		return false, fmt.Errorf("the client sent data of file number %d, which was not asked for", id)
	}
	if end = len(data) == 0; end {
		delete(s.files, id)
	}
	select {
	case <-ctx.Done():
		return end, context.Cause(ctx)
	case s.workers[int(id)%len(s.workers)] <- chunk{r, data}:
		return end, nil
	}
}

func (s *stage) write(ctx context.Context, c chunk, open map[*received]struct{}) error {
	r := c.r
	if r.f == nil {
		if err := s.create(ctx, r); err != nil {
			return err
		}
		open[r] = struct{}{}
	}
	if len(c.data) > 0 {
		r.h.Write(c.data)
		n, err := r.f.Write(c.data)
		r.size += int64(n)
		if err != nil {
			return fmt.Errorf("write %q: %w", r.entry.Path, err)
		}
		return nil
	}
	delete(open, r)
	return s.close(r)
}

func (s *stage) create(ctx context.Context, r *received) error {
	d, err := s.dir(ctx)
	if err != nil {
		return err
	}
	if err := s.mkdir(d, path.Dir(r.entry.Path)); err != nil {
		return fmt.Errorf("write %q: %w", r.entry.Path, err)
	}
	if r.f, err = os.OpenFile(filepath.Join(d.Dir, r.entry.Path), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("write %q: %w", r.entry.Path, err)
	}
	r.h = sha256.New()
	return nil
}

// mkdir makes a directory of the list and those above it, unless they are there.
// Nothing but directories and files is made while files come, so none of the
// paths leads through a link.
func (s *stage) mkdir(d *tree.Draft, dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mkdirLocked(d, dir)
}

func (s *stage) mkdirLocked(d *tree.Draft, dir string) error {
	if s.dirs[dir] {
		return nil
	}
	if err := s.mkdirLocked(d, path.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(d.Dir, dir), 0o700); err != nil {
		return err
	}
	s.dirs[dir] = true
	return nil
}

// close finishes a file: its owner, mode and time are set before anybody sees
// it.
func (s *stage) close(r *received) error {
	defer r.f.Close()
	if r.size == 0 && r.entry.Size > 0 {
		return fmt.Errorf("the client could not read %q: check its permissions, or exclude it in .dockerignore", r.entry.Path)
	}
	r.entry.Size = r.size // the file may have grown since it was listed
	r.h.Sum(r.entry.Hash[:0])
	if err := setAttrs(s.c, int(r.f.Fd()), "", r.entry); err != nil {
		return fmt.Errorf("write %q: %w", r.entry.Path, err)
	}
	return r.f.Close()
}

// dir makes the draft when the first file comes.
func (s *stage) dir(ctx context.Context) (*tree.Draft, error) {
	s.once.Do(func() { s.draft, s.err = s.c.Trees.NewDraft(ctx, "") })
	return s.draft, s.err
}
