package layer

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// gzipBlock is what one core compresses at a time. Each block begins with the
// end of the one before as its dictionary, so it costs little in size, but tables
// are reset and the dictionary is loaded for each: blocks half as large take 6 %
// longer. It is a constant since it decides the output.
const gzipBlock = 2 << 20

// NewWriter compresses to w on all cores. Equal input, type and level give
// equal output, on however many cores and in whatever pieces it is written. Close
// ends the stream, and leaves w open; it must be called, also after an error.
func NewWriter(w io.Writer, c Compression) (io.WriteCloser, error) {
	return newWriter(w, c, runtime.GOMAXPROCS(0))
}

func newWriter(w io.Writer, c Compression, cores int) (io.WriteCloser, error) {
	if c.Level != DefaultLevel && (c.Level < 0 || c.Level > c.Type.maxLevel()) {
		return nil, fmt.Errorf("compress layer: %d is no level of %s: want 0 to %d", c.Level, c.Type, c.Type.maxLevel())
	}
	switch c.Type {
	case Uncompressed:
		return plainWriter{w}, nil
	case Gzip:
		z, err := pgzip.NewWriterLevel(w, c.Level)
		if err != nil {
			return nil, fmt.Errorf("compress layer: %w", err)
		}
		if err := z.SetConcurrency(gzipBlock, cores+1); err != nil {
			return nil, fmt.Errorf("compress layer: %w", err)
		}
		return &onceCloser{Writer: z, close: z.Close}, nil
	case Zstd:
		z, err := zstd.NewWriter(w, zstdOptions(c.Level, cores)...)
		if err != nil {
			return nil, fmt.Errorf("compress layer: %w", err)
		}
		return &onceCloser{Writer: z, close: z.Close}, nil
	default:
		return nil, fmt.Errorf("compress layer: %s: want %s, %s or %s", c.Type, Uncompressed, Gzip, Zstd)
	}
}

func zstdOptions(level, cores int) []zstd.EOption {
	speed := zstd.SpeedDefault
	if level != DefaultLevel {
		speed = zstd.EncoderLevelFromZstd(level)
	}
	opts := []zstd.EOption{
		zstd.WithEncoderLevel(speed),
		zstd.WithConcurrentBlocks(true),
		// With one core the encoder would not split its input into jobs, and the
		// output would differ.
		zstd.WithEncoderConcurrency(max(2, cores)),
	}
	if speed < zstd.SpeedBestCompression {
		// A job is four windows long, so a smaller window than the default of
		// 8 MiB keeps all cores busy with small layers, too.
		opts = append(opts, zstd.WithWindowSize(zstdWindow))
	}
	return opts
}

const zstdWindow = 2 << 20

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// onceCloser closes once and remembers how that ended.
type onceCloser struct {
	io.Writer
	close func() error
	err   error
}

func (c *onceCloser) Close() error {
	if c.close != nil {
		c.err = c.close()
		c.close = nil
	}
	return c.err
}
