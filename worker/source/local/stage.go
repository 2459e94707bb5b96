package local

import (
	"context"
	"crypto/sha256"
	"errors"
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
	"golang.org/x/sys/unix"
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

	fd   int // where h is set
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
			w := &writer{s: s, open: map[*received]struct{}{}, dirFD: -1}
			defer w.end()
			for c := range ch {
				if ctx.Err() != nil {
					continue // until the receiver notices
				}
				if err := w.write(ctx, c); err != nil {
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

// writer is a worker of a stage.
type writer struct {
	s    *stage
	open map[*received]struct{}

	dir   string // the directory that is open
	dirFD int    // -1 if none is
}

func (w *writer) end() {
	for r := range w.open {
		unix.Close(r.fd)
	}
	if w.dirFD >= 0 {
		unix.Close(w.dirFD)
	}
}

func (w *writer) write(ctx context.Context, c chunk) error {
	r := c.r
	var err error
	if r.h == nil {
		err = w.create(ctx, r)
	}
	if err == nil && len(c.data) > 0 {
		err = r.add(c.data)
	} else if err == nil {
		delete(w.open, r)
		err = w.s.close(r)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", r.entry.Path, err)
	}
	return nil
}

func (w *writer) create(ctx context.Context, r *received) error {
	d, err := w.s.dir(ctx)
	if err != nil {
		return err
	}
	dir, name := path.Split(r.entry.Path)
	if err := w.enter(d, path.Clean(dir)); err != nil {
		return err
	}
	if r.fd, err = unix.Openat(w.dirFD, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		return err
	}
	r.h = sha256.New()
	w.open[r] = struct{}{}
	return nil
}

// enter makes dir, unless it is there, and opens it.
func (w *writer) enter(d *tree.Draft, dir string) error {
	if w.dirFD >= 0 && w.dir == dir {
		return nil
	}
	if err := w.s.mkdir(d, dir); err != nil {
		return err
	}
	fd, err := unix.Open(filepath.Join(d.Dir, dir), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if w.dirFD >= 0 {
		unix.Close(w.dirFD)
	}
	w.dir, w.dirFD = dir, fd
	return nil
}

func (r *received) add(data []byte) error {
	r.h.Write(data)
	for len(data) > 0 {
		n, err := unix.Write(r.fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		r.size += int64(n)
		data = data[n:]
	}
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
func (s *stage) close(r *received) (err error) {
	defer func() {
		if cerr := unix.Close(r.fd); err == nil {
			err = cerr
		}
	}()
	if r.size == 0 && r.entry.Size > 0 {
		return errors.New("the client could not read it: check its permissions, or exclude it in .dockerignore")
	}
	r.entry.Size = r.size // the file may have grown since it was listed
	r.h.Sum(r.entry.Hash[:0])
	return setAttrs(s.c, r.fd, "", r.entry)
}

// dir makes the draft when the first file comes.
func (s *stage) dir(ctx context.Context) (*tree.Draft, error) {
	s.once.Do(func() { s.draft, s.err = s.c.Trees.NewDraft(ctx, "") })
	return s.draft, s.err
}
