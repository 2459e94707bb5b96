package draft

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow bounds the memory that a zstd stream may ask for; zstd --long=29.
const maxWindow = 512 << 20

// OpenArchive returns the tar stream in r if r is a tar archive, plain or
// compressed with gzip, bzip2, xz or zstd; ok is false if it is not. Reading
// from r goes on until the returned reader is closed.
func OpenArchive(r io.ReadSeeker) (_ io.ReadCloser, ok bool, err error) {
	probe, err := decompress(r)
	if err != nil {
		return nil, false, rewind(r)
	}
	_, err = tar.NewReader(probe).Next()
	probe.Close()
	if rerr := rewind(r); err != nil || rerr != nil {
		return nil, false, rerr
	}
	out, err := decompress(r)
	return out, err == nil, err
}

func rewind(r io.Seeker) error {
	_, err := r.Seek(0, io.SeekStart)
	return err
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		x, err := xz.NewReader(b)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return io.NopCloser(b), nil
	}
}
