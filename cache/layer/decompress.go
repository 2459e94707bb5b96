package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

var (
	gzipMagic  = []byte{0x1f, 0x8b, 0x08}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	bzip2Magic = []byte("BZh")
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// isZstd tells whether a stream begins as Zstandard, possibly with a skippable
// frame (RFC 8878, 3.1).
func isZstd(head []byte) bool {
	skippable := len(head) >= 8 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
	return skippable || bytes.HasPrefix(head, zstdMagic)
}

// NewReader decompresses a layer. Registries hold layers whose media type does
// not say what they are, so what the stream begins with decides; the media type
// has to be a layer's all the same, or "". Data that ends early or is damaged is
// an error of Read. Close ends the decompression, and leaves r open.
func NewReader(r io.Reader, mediaType string) (io.ReadCloser, error) {
	if mediaType != "" {
		if _, err := TypeOf(mediaType); err != nil {
			return nil, fmt.Errorf("decompress layer: %w", err)
		}
	}
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decompress layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("decompress layer: %w", noEOF(err))
		}
		return newReadahead(z), nil
	case isZstd(head):
		z, err := zstd.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("decompress layer: %w", err)
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(br), nil
	}
}

// noEOF makes an end in the middle of a header what it is.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readahead reads from a decompressor on another core than its consumer runs
// on.
type readahead struct {
	full, free chan []byte
	stop       chan struct{}
	group      errgroup.Group

	cur, buf []byte // what is left of the buffer being read, and it
	err      error
}

const (
	readaheadBuffers = 4
	readaheadSize    = 256 << 10
)

func newReadahead(r io.Reader) *readahead {
	a := &readahead{
		full: make(chan []byte, readaheadBuffers),
		free: make(chan []byte, readaheadBuffers),
		stop: make(chan struct{}),
	}
	for range readaheadBuffers {
		a.free <- make([]byte, readaheadSize)
	}
	a.group.Go(func() error {
		defer close(a.full)
		return a.fill(r)
	})
	return a
}

func (a *readahead) fill(r io.Reader) error {
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return io.ErrClosedPipe
		}
		n, err := 0, error(nil)
		for n < readaheadSize && err == nil {
			var k int
			k, err = r.Read(buf[n:readaheadSize])
			n += k
		}
		if n > 0 {
			a.full <- buf[:n] // has room for every buffer there is
		}
		if err != nil {
			return err
		}
	}
}

func (a *readahead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.buf != nil {
			a.free <- a.buf
			a.buf = nil
		}
		buf, ok := <-a.full
		if !ok {
			a.err = a.group.Wait()
			continue
		}
		a.buf, a.cur = buf, buf
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close ends reading ahead and waits for that.
func (a *readahead) Close() error {
	if a.err == nil {
		a.err = io.ErrClosedPipe
		a.cur = nil
		close(a.stop)
		_ = a.group.Wait() // nobody is left to read what became of it
	}
	return nil
}
