package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

const (
	// aheadFiles is how many files are opened before it is their turn, by
	// aheadReaders at a time.
	aheadFiles   = 32
	aheadReaders = 4
	// aheadBytes is how much of each is read: all of most.
	aheadBytes = 64 << 10
)

var errChanged = errors.New("is not the file that was indexed")

// ahead reads files of a layer one after the other, and opens the next ones
// meanwhile: whoever compresses does not wait for the disk, which is asked for
// more than one file at a time.
type ahead struct {
	ctx    context.Context
	cancel context.CancelFunc
	root   int
	queue  chan *aheadFile // in their order
	jobs   chan *aheadFile
	free   chan []byte // buffers of aheadBytes
	buf    []byte      // for what is read when it is a file's turn
	wg     sync.WaitGroup
	left   *aheadFile // taken from the queue, but not read
}

// aheadFile is a file that will be read. The reader that opens it owns it until
// ready is closed.
type aheadFile struct {
	e     digest.Entry
	ready chan struct{}
	fd    int // -1 once all is read
	head  []byte
	err   error
}

// readAhead begins to read files, regular ones that are not empty, below the
// directory root, which must stay open until close.
func readAhead(ctx context.Context, root int, files iter.Seq[digest.Entry]) *ahead {
	ctx, cancel := context.WithCancel(ctx)
	a := &ahead{
		ctx: ctx, cancel: cancel, root: root, buf: make([]byte, copyBuffer),
		queue: make(chan *aheadFile, aheadFiles), jobs: make(chan *aheadFile), free: make(chan []byte, aheadFiles),
	}
	a.wg.Go(func() { a.list(files) })
	for range aheadReaders {
		a.wg.Go(a.open)
	}
	return a
}

func (a *ahead) list(files iter.Seq[digest.Entry]) {
	defer close(a.jobs)
	for e := range files {
		f := &aheadFile{e: e, ready: make(chan struct{}), fd: -1}
		for _, to := range []chan *aheadFile{a.queue, a.jobs} {
			select {
			case to <- f:
			case <-a.ctx.Done():
				return
			}
		}
	}
}

func (a *ahead) open() {
	d := opener{root: a.root, fd: -1}
	defer d.close()
	for f := range a.jobs {
		if f.err = a.begin(&d, f); f.err != nil {
			f.close()
		}
		close(f.ready)
	}
}

// begin opens a file and reads its beginning.
func (a *ahead) begin(d *opener, f *aheadFile) error {
	var err error
	if f.fd, err = d.open(f.e.Path); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != f.e.Size {
		return errChanged
	}
	select {
	case f.head = <-a.free:
	default:
		f.head = make([]byte, aheadBytes)
	}
	f.head = f.head[:min(f.e.Size, aheadBytes)]
	for rest := f.head; len(rest) > 0; {
		n, err := readFD(f.fd, rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if f.e.Size > aheadBytes {
		return nil
	}
	fd := f.fd
	f.fd = -1
	return unix.Close(fd)
}

// readFD reads at least a byte.
func readFD(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case err == unix.EINTR:
		case err == nil && n == 0:
			return 0, errChanged
		default:
			return n, err
		}
	}
}

// copy writes the bytes of the next file, which e must be.
func (a *ahead) copy(w io.Writer, e digest.Entry) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	var f *aheadFile
	select {
	case f = <-a.queue:
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	}
	select {
	case <-f.ready:
	case <-a.ctx.Done():
		a.left = f
		return context.Cause(a.ctx)
	}
	defer f.close()
	if f.err != nil {
		return f.err
	}
	if f.e.Path != e.Path {
		return fmt.Errorf("%s was read in its place", quote(f.e.Path))
	}
	if _, err := w.Write(f.head); err != nil {
		return err
	}
	left := e.Size - int64(len(f.head))
	select {
	case a.free <- f.head[:aheadBytes]:
	default:
	}
	for left > 0 {
		if a.ctx.Err() != nil {
			return context.Cause(a.ctx)
		}
		n, err := readFD(f.fd, a.buf[:min(int64(len(a.buf)), left)])
		if err != nil {
			return err
		}
		if _, err := w.Write(a.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// close ends all reading.
func (a *ahead) close() {
	a.cancel()
	a.wg.Wait()
	close(a.queue)
	for f := range a.queue {
		f.close()
	}
	if a.left != nil {
		a.left.close()
	}
}

func (f *aheadFile) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// opener opens files below a directory, the last of whose directories it keeps
// open.
type opener struct {
	root int
	dir  string
	fd   int // -1 if none is open
}

func (o *opener) close() {
	if o.fd >= 0 {
		unix.Close(o.fd)
	}
}

func (o *opener) open(path string) (int, error) {
	dir, base := split(path)
	if o.fd < 0 || o.dir != dir {
		o.close()
		fd, err := openBeneath(o.root, dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			o.fd = -1
			return -1, fmt.Errorf("open directory: %w", err)
		}
		o.dir, o.fd = dir, fd
	}
	fd, err := openBeneath(o.fd, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return -1, fmt.Errorf("open: %w", err)
	}
	return fd, nil
}
