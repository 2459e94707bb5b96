package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/buildd/buildd/bench/prose"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/pgzip"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// pack writes what fill writes to a file, compressed on all cores; both the
// plain and the compressed bytes are hashed, as an image wants.
func pack(path string, fill func(w io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z := pgzip.NewWriter(io.MultiWriter(f, sha256.New()))
	if err := z.SetConcurrency(1<<20, runtime.NumCPU()); err != nil {
		return err
	}
	if err := fill(io.MultiWriter(z, sha256.New())); err != nil {
		return err
	}
	return z.Close()
}

// archive makes a compressed tar of the context of w3.
func archive(p place) (time.Duration, error) {
	start := time.Now()
	err := pack(filepath.Join(p.dir, "archive"), func(w io.Writer) error {
		t := tar.NewWriter(w)
		paths, err := files(p)
		if err != nil {
			return err
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := t.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
				return err
			}
			if _, err := t.Write(b); err != nil {
				return err
			}
		}
		return t.Close()
	})
	return time.Since(start), err
}

// push compresses the text of w4 and writes it to a file.
func push(p place) (time.Duration, error) {
	text := filepath.Join(p.dir, "text")
	f, err := os.Create(text)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := io.Copy(f, prose.Size(1, 500_000_000)); err != nil {
		return 0, err
	}
	unix.Sync()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	start := time.Now()
	err = pack(filepath.Join(p.dir, "pushed"), func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
	return time.Since(start), err
}

// makeAndPush adds the time that making the text takes by definition.
func makeAndPush(p place) (time.Duration, error) {
	s, err := strconv.ParseFloat(os.Getenv("RUN_SECONDS"), 64)
	if err != nil {
		return 0, fmt.Errorf("read RUN_SECONDS: %w", err)
	}
	d, err := push(p)
	return d + time.Duration(s*float64(time.Second)), err
}

// unpack decompresses, checks and writes the layers of w5, several at once.
func unpack(p place) (time.Duration, error) {
	layers, err := filepath.Glob(filepath.Join(p.fixtures, "fixture-layers", "*.tar.gz"))
	if err != nil || len(layers) == 0 {
		return 0, fmt.Errorf("find layers: %d, %v", len(layers), err)
	}
	start := time.Now()
	var eg errgroup.Group
	eg.SetLimit(runtime.NumCPU())
	for i, l := range layers {
		eg.Go(func() error { return unpackLayer(filepath.Join(p.dir, strconv.Itoa(i)), l) })
	}
	err = eg.Wait()
	return time.Since(start), err
}

func unpackLayer(dir, layer string) error {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(io.TeeReader(f, sha256.New()))
	if err != nil {
		return err
	}
	r := tar.NewReader(io.TeeReader(z, sha256.New()))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		out, err := os.Create(path)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, r); err != nil {
			out.Close()
			return err
		}
		if err := out.Close(); err != nil {
			return err
		}
	}
}
