package dockerfile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// archiveHead is how much of a file isArchive wants to see; a tar header has 512 bytes.
const archiveHead = 1024

// compression is a format that an archive may come in, and how its stream begins.
type compression struct {
	magic []byte
	open  func(io.Reader) (io.Reader, error)
}

var compressions = []compression{
	{[]byte{0x1f, 0x8b, 0x08}, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{[]byte("BZh"), func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{[]byte{0xfd, '7', 'z', 'X', 'Z', 0}, func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }},
	{[]byte{0x28, 0xb5, 0x2f, 0xfd}, openZstd},
}

// openZstd keeps to one goroutine, as nobody closes the reader.
func openZstd(r io.Reader) (io.Reader, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
}

func compressionOf(head []byte) *compression {
	for i := range compressions {
		if bytes.HasPrefix(head, compressions[i].magic) {
			return &compressions[i]
		}
	}
	// A zstd stream may begin with a frame to be skipped (RFC 8878, section 3.1.2).
	if len(head) >= 8 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return &compressions[len(compressions)-1]
	}
	return nil
}

// isArchive says whether a file with this beginning is a tar archive or a compressed something, which then must be one.
func isArchive(head []byte) bool {
	if compressionOf(head) != nil {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

// newestFile returns when the newest regular file of an archive was changed, nil for what is no archive or has no files.
func newestFile(r io.Reader) (*time.Time, error) {
	buffered := bufio.NewReaderSize(r, archiveHead)
	head, err := buffered.Peek(archiveHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !isArchive(head) {
		return nil, nil
	}
	r = buffered
	if c := compressionOf(head); c != nil {
		if r, err = c.open(r); err != nil {
			return nil, err
		}
	}
	var newest *time.Time
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return newest, nil
		}
		if err != nil {
			return nil, err
		}
		if t := h.ModTime.UTC(); h.FileInfo().Mode().IsRegular() && (newest == nil || t.After(*newest)) {
			newest = &t
		}
	}
}
