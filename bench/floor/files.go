package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// files returns the files of the context of w3.
func files(p place) ([]string, error) {
	var out []string
	err := filepath.WalkDir(filepath.Join(p.fixtures, "fixture-tree", "src"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		_, err = d.Info()
		out = append(out, path)
		return err
	})
	return out, err
}

// walk looks at every file: what it takes to see that none has changed.
func walk(p place) (time.Duration, error) {
	start := time.Now()
	_, err := files(p)
	return time.Since(start), err
}

// link looks at every file and links it to a new directory, as a new layer of
// the same files needs.
func link(p place) (time.Duration, error) {
	start := time.Now()
	paths, err := files(p)
	if err != nil {
		return 0, err
	}
	for i, path := range paths {
		dir := filepath.Join(p.dir, filepath.Base(filepath.Dir(path)))
		if i == 0 || filepath.Dir(path) != filepath.Dir(paths[i-1]) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return 0, err
			}
		}
		if err := os.Link(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// send reads every file and sends it through a socket, at the other end of which
// it is hashed and written.
func send(p place) (time.Duration, error) {
	l, err := net.Listen("unix", filepath.Join(p.dir, "sock"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	start := time.Now()
	var eg errgroup.Group
	eg.Go(func() error { return sendFiles(p, l.Addr().String()) })
	c, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	eg.Go(func() error { return receiveFiles(p, c) })
	err = eg.Wait()
	return time.Since(start), err
}

func sendFiles(p place, addr string) error {
	paths, err := files(p)
	if err != nil {
		return err
	}
	c, err := net.Dial("unix", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	w := bufio.NewWriterSize(c, 1<<18)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := binary.Write(w, binary.LittleEndian, uint64(len(b))); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Flush()
}

// receiveFiles hashes and writes on all cores.
func receiveFiles(p place, c io.Reader) error {
	r := bufio.NewReaderSize(c, 1<<18)
	var eg errgroup.Group
	eg.SetLimit(runtime.NumCPU())
	for i := 0; ; i++ {
		var size uint64
		if err := binary.Read(r, binary.LittleEndian, &size); err == io.EOF {
			return eg.Wait()
		} else if err != nil {
			return err
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		dir := filepath.Join(p.dir, fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		eg.Go(func() error {
			sha256.Sum256(b)
			return os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o644)
		})
	}
}
