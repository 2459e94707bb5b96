package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
)

// aheadTree makes files in several directories, some larger than what is read
// before their turn, and returns their bytes one after the other.
func aheadTree(t *testing.T, files int) (digest.Layer, []byte) {
	t.Helper()
	dir := t.TempDir()
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("%02d", i/10), fmt.Sprintf("%04d", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		size := i % 50
		if i%7 == 0 {
			size = aheadBytes - 1 + i%3
		}
		if i%31 == 0 {
			size = copyBuffer + aheadBytes + i
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte(i)}, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	x, err := digest.Scan(t.Context(), dir, digest.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for e := range x.All() {
		if e.IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Path))
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, b...)
		}
	}
	return digest.Layer{Dir: dir, Index: x}, want
}

func (a *ahead) all(x *digest.Index, w io.Writer) error {
	for e := range filled(x) {
		if err := a.copy(w, e); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	return nil
}

func openRoot(t *testing.T, dir string) int {
	t.Helper()
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(root) })
	return root
}

// openBelow lists the files below dir that this process has open.
func openBelow(t *testing.T, dir string) []string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, fd := range fds {
		to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if rel, err := filepath.Rel(dir, to); err == nil && filepath.IsLocal(rel) && rel != "." {
			out = append(out, rel)
		}
	}
	return out
}

func TestAheadReadsInOrder(t *testing.T) {
	l, want := aheadTree(t, 500)
	a := readAhead(t.Context(), openRoot(t, l.Dir), filled(l.Index))
	var got bytes.Buffer
	if err := a.all(l.Index, &got); err != nil {
		t.Error(err)
	}
	a.close()
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("read %d bytes, not the %d of the files in their order", got.Len(), len(want))
	}
	if fds := openBelow(t, l.Dir); len(fds) > 0 {
		t.Errorf("open: %q", fds)
	}
}

func TestAheadFailsAtTheFile(t *testing.T) {
	l, _ := aheadTree(t, 100)
	if err := os.Remove(filepath.Join(l.Dir, "05/0053")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(l.Dir, "05/0054"), 1); err != nil {
		t.Fatal(err)
	}
	a := readAhead(t.Context(), openRoot(t, l.Dir), filled(l.Index))
	defer a.close()
	for e := range filled(l.Index) {
		err := a.copy(io.Discard, e)
		switch e.Path {
		case "05/0053":
			if !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file that is gone: %v", err)
			}
		case "05/0054":
			if !errors.Is(err, errChanged) {
				t.Errorf("a file that was cut: %v", err)
			}
		default:
			if err != nil {
				t.Fatalf("%s: %v", e.Path, err)
			}
		}
	}
}

// failingWriter takes so many bytes.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestAheadEndsEarly(t *testing.T) {
	l, want := aheadTree(t, 300)
	root := openRoot(t, l.Dir)
	stop := errors.New("enough")
	for name, read := range map[string]func(a *ahead, cancel func(error)) error{
		"not begun": func(*ahead, func(error)) error { return nil },
		"writer":    func(a *ahead, _ func(error)) error { return a.all(l.Index, &failingWriter{len(want) / 2}) },
		"cancelled": func(a *ahead, cancel func(error)) error {
			for e := range filled(l.Index) {
				if err := a.copy(io.Discard, e); err != nil {
					return err
				}
				if e.Path >= "10" {
					cancel(stop)
				}
			}
			return nil
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		a := readAhead(ctx, root, filled(l.Index))
		err := read(a, cancel)
		a.close()
		cancel(nil)
		if want := map[string]error{"writer": io.ErrShortWrite, "cancelled": stop}[name]; !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if fds := openBelow(t, l.Dir); len(fds) > 0 {
			t.Errorf("%s: open: %q", name, fds)
		}
	}
}
