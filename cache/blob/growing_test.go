package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestGrowingIsReadBehindASlowWriter(t *testing.T) {
	s := open(t, t.TempDir())
	data := random(3 << 20)
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		var early time.Duration
		start := time.Now()
		follow := func(g *Growing) {
			for i := range 4 {
				r, err := g.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					defer r.Close()
					var got bytes.Buffer
					if i == 0 {
						if _, err := io.CopyN(&got, onlyReader{r}, 1); err != nil {
							t.Error(err)
						}
						early = time.Since(start)
					}
					src := io.Reader(r)
					if i%2 == 0 {
						src = onlyReader{r} // without WriteTo
					}
					if _, err := io.Copy(&got, src); err != nil || !bytes.Equal(got.Bytes(), data) {
						t.Errorf("reader %d: %d bytes, %v", i, got.Len(), err)
					}
				})
			}
			wg.Go(func() {
				if err := g.Reach(t.Context(), 1<<20); err != nil || time.Since(start) >= time.Hour {
					t.Errorf("reached 1 MiB after %s: %v", time.Since(start), err)
				}
				if desc, err := g.End(t.Context()); err != nil || desc.Digest != digest.FromBytes(data) || desc.Size != int64(len(data)) {
					t.Errorf("ended as %v, %v", desc, err)
				}
				if err := g.Reach(t.Context(), 1<<30); !errors.Is(err, io.EOF) {
					t.Errorf("reached 1 GiB: %v", err)
				}
			})
		}
		_, err := s.CreateFollowed(t.Context(), follow, func(w io.Writer) error {
			for rest := data; len(rest) > 0; rest = rest[min(len(rest), 100_003):] {
				time.Sleep(time.Minute)
				if _, err := w.Write(rest[:min(len(rest), 100_003)]); err != nil {
					return err
				}
			}
			time.Sleep(time.Hour)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if early != time.Minute {
			t.Errorf("the first byte was read after %s, it was written after a minute", early)
		}
	})
	if all := files(t, s); len(all) != 1 {
		t.Errorf("files: %v", all)
	}
}

type onlyReader struct{ io.Reader }

func TestGrowingFails(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		make func(ctx context.Context, cancel func(), w io.Writer) error
		want error
	}{
		"writer":  {func(context.Context, func(), io.Writer) error { return boom }, boom},
		"build":   {func(ctx context.Context, cancel func(), _ io.Writer) error { cancel(); return nil }, context.Canceled},
		"nothing": {func(context.Context, func(), io.Writer) error { return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var g *Growing
			var wg sync.WaitGroup
			follow := func(grown *Growing) {
				g = grown
				r, err := g.Open(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				wg.Go(func() {
					defer r.Close()
					b, err := io.ReadAll(r)
					if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, errUnfinished) {
						t.Errorf("read %d bytes, %v", len(b), err)
					}
					if _, err := g.End(t.Context()); !errors.Is(err, c.want) {
						t.Errorf("ended: %v", err)
					}
				})
			}
			_, err := s.CreateFollowed(ctx, follow, func(w io.Writer) error {
				if _, err := w.Write([]byte("begun")); err != nil {
					return err
				}
				return c.make(ctx, cancel, w)
			})
			wg.Wait()
			if !errors.Is(err, c.want) {
				t.Errorf("made: %v", err)
			}
			if all := files(t, s); len(all) != map[bool]int{c.want == nil: 1}[true] {
				t.Errorf("files: %v", all)
			}
			if _, err := g.Open(t.Context()); !errors.Is(err, os.ErrClosed) {
				t.Errorf("opened after the end: %v", err)
			}
			if err := g.f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the file was still open: %v", err)
			}
		})
	}
}

// A reader that nobody feeds ends with its context and when it is closed; one
// that was opened before the end reads on after it.
func TestGrowingReaderEnds(t *testing.T) {
	s := open(t, t.TempDir())
	stop := errors.New("stop")
	var late io.ReadCloser
	_, err := s.CreateFollowed(t.Context(), func(g *Growing) {
		ctx, cancel := context.WithCancelCause(t.Context())
		waiting, err := g.Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		closed, _ := g.Open(t.Context())
		late, _ = g.Open(t.Context())
		got := make(chan error)
		for _, r := range []io.Reader{waiting, closed} {
			go func() {
				_, err := r.Read(make([]byte, 1))
				got <- err
			}()
		}
		cancel(stop)
		if err := <-got; !errors.Is(err, stop) {
			t.Errorf("read when the context ended: %v", err)
		}
		for range 2 {
			closed.Close()
		}
		if err := <-got; !errors.Is(err, os.ErrClosed) {
			t.Errorf("read when closed: %v", err)
		}
		waiting.Close()
	}, func(w io.Writer) error {
		_, err := w.Write([]byte("all"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(late); err != nil || string(b) != "all" {
		t.Errorf("%q, %v", b, err)
	}
	late.Close()
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}
