package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/buildd/buildd/bench/prose"
)

// The context of w3: files of a source tree, one in three does not compress.
const (
	treeFiles = 20_000
	treeBytes = 234_000_000
	changed   = "dir7/file777"
)

func treeWorkloads() []*workload {
	first := &workload{
		name: "w3a", what: "first build, context of 20,000 files, 234 MB, COPY", target: 0.35, floor: "w3a", setup: makeTree, cold: true, writes: 2 * treeBytes,
		read:   func(_ context.Context, b *bench, _ engine) error { return readAll(b.treeDir()) },
		before: func(ctx context.Context, b *bench, e engine, _ int) error { return b.warm(ctx, e) },
		run:    buildTree, after: copies(1, 0),
	}
	// The others are one group: the first of them that runs finds nothing built.
	rest := []*workload{
		{name: "w3b", what: "the same again", target: 0.5, floor: "w3b", start: startTree, run: buildTree, after: copies(0, 1)},
		{name: "w3c", what: "the same with one file changed", target: 0.25, floor: "w3c", start: startTree, before: changeTree, run: buildTree, after: copies(1, 0)},
		{name: "w3d", what: "OCI archive of that image, cached build", target: 0.25, floor: "w3d", start: startTree,
			before: func(ctx context.Context, b *bench, e engine, round int) error {
				// an archive of the same layer would find it compressed
				if err := changeTree(ctx, b, e, 1000+round); err != nil {
					return err
				}
				_, err := buildTree(ctx, b, e, round)
				return err
			},
			run: func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
				return e.build(ctx, request{dir: b.treeDir(), archive: b.treeArchive()})
			},
			after: func(_ context.Context, b *bench, _ engine, _ int, o outcome) error {
				return errors.Join(o.wantCopy(0, 1), checkArchive(b.treeArchive(), treeBytes/4), os.Remove(b.treeArchive()))
			}},
	}
	for _, w := range rest {
		w.setup, w.read, w.group, w.writes = makeTree, readTrees, "tree", 2*treeBytes
	}
	return append([]*workload{first}, rest...)
}

// copies checks how many COPY steps ran and how many did not.
func copies(copied, kept int) func(context.Context, *bench, engine, int, outcome) error {
	return func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.wantCopy(copied, kept) }
}

func (b *bench) treeDir() string     { return b.fixtureDir("tree") }
func (b *bench) treeArchive() string { return filepath.Join(b.dir, "tree.tar") }

func makeTree(_ context.Context, b *bench) error {
	_, err := b.fixture("tree", func(dir string) error {
		for i := range treeFiles {
			sub := filepath.Join(dir, "src", fmt.Sprint("dir", i/100))
			if i%100 == 0 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return err
				}
			}
			if err := writeTreeFile(filepath.Join(sub, fmt.Sprint("file", i)), i); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.expand("FROM %BASE%\nCOPY . /src\n")), 0o644)
	})
	return err
}

// readTrees reads the context, and the newest copies of it in an engine's state.
// Between the rounds another engine works for many seconds, and a kernel that
// frees what has been idle for some would make it the disk that is measured.
func readTrees(_ context.Context, b *bench, e engine) error {
	if err := readAll(b.treeDir()); err != nil || e == nil {
		return err
	}
	newest, err := newestTrees(b.stateDir(e))
	for _, dir := range newest {
		err = errors.Join(err, readAll(dir))
	}
	return err
}

// newestTrees returns the directories below state that have what changeTree wrote
// last, of those that are there.
func newestTrees(state string) ([]string, error) {
	var found []string
	var last time.Time
	err := filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() != "src" {
			return err
		}
		info, err := os.Stat(filepath.Join(path, changed))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case info.ModTime().After(last):
			found, last = nil, info.ModTime()
		}
		if info.ModTime().Equal(last) {
			found = append(found, path)
		}
		return fs.SkipDir
	})
	return found, err
}

// writeTreeFile writes file i: sizes are even around the mean.
func writeTreeFile(path string, i int) error {
	const mean = treeBytes / treeFiles
	size := int64(mean/10 + i*7919%treeFiles*(2*mean-mean/5)/treeFiles)
	r := prose.Size(uint64(i+1), size)
	if i%3 == 0 {
		r = io.LimitReader(prose.NewNoise(uint64(i+1)), size)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// warm makes an engine have the base image, unpacked.
func (b *bench) warm(ctx context.Context, e engine) error {
	dir, err := b.dockerfile("warm", "FROM %BASE%\nRUN true\n")
	if err != nil {
		return err
	}
	_, err = e.build(ctx, request{dir: dir})
	return err
}

func startTree(ctx context.Context, b *bench, e engine) error {
	if err := b.warm(ctx, e); err != nil {
		return err
	}
	_, err := buildTree(ctx, b, e, 0)
	return err
}

// changeTree gives one file other text, the same for every engine.
func changeTree(_ context.Context, b *bench, _ engine, round int) error {
	return os.WriteFile(filepath.Join(b.treeDir(), "src", changed), fmt.Appendln(nil, "round", round), 0o644)
}

func buildTree(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
	return e.build(ctx, request{dir: b.treeDir()})
}

// checkArchive returns an error unless path is a whole tar of an OCI layout with
// a blob of at least so many bytes.
func checkArchive(path string, bytes int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	index, biggest := false, int64(0)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		index = index || h.Name == "index.json"
		biggest = max(biggest, h.Size)
	}
	if !index || biggest < bytes {
		return fmt.Errorf("archive: index.json is there: %v, biggest file has %d bytes, want %d", index, biggest, bytes)
	}
	return nil
}
