package blob

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
)

// BenchmarkIngest takes in blobs that were not there: a manifest, a layer.
func BenchmarkIngest(b *testing.B) { write(b, ingest) }

// BenchmarkCreate writes blobs whose digest is not known before.
func BenchmarkCreate(b *testing.B) { write(b, create) }

func ingest(ctx context.Context, s *Store, data []byte) error {
	return s.Ingest(ctx, describe(data), bytes.NewReader(data))
}

func create(ctx context.Context, s *Store, data []byte) error {
	_, err := s.Create(ctx, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	return err
}

func write(b *testing.B, put func(context.Context, *Store, []byte) error) {
	for _, size := range []int{4 << 10, 16 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, b.TempDir())
			data := random(size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				binary.LittleEndian.PutUint64(data, i) // a new blob
				if err := put(b.Context(), s, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
