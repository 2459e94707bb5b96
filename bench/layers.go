package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/buildd/buildd/bench/prose"
)

const (
	textBytes  = 500_000_000
	layerCount = 10
	layerFiles = 600
	layerBytes = 60_000_000 // of each
)

func layerWorkloads() []*workload {
	push := &workload{
		name: "w4", what: "push of a layer with 500 MB of text, cached build", target: 0.15, floor: "w4", setup: makeText, writes: 1 << 29,
		start: func(ctx context.Context, b *bench, e engine) error { return b.warm(ctx, e) },
		before: func(ctx context.Context, b *bench, e engine, round int) error {
			o, err := e.build(ctx, request{dir: b.textDir(), args: textArgs("w4", round, 0)})
			if err != nil {
				return err
			}
			return o.want(1, 0)
		},
		run: func(ctx context.Context, b *bench, e engine, round int) (outcome, error) {
			return e.build(ctx, request{dir: b.textDir(), args: textArgs("w4", round, 0), push: b.registry.ref(e.name() + "/w4")})
		},
		after: func(ctx context.Context, b *bench, e engine, _ int, o outcome) error {
			if err := o.want(0, 1); err != nil {
				return err
			}
			return b.checkPushed(ctx, e.name()+"/w4")
		},
	}
	both := &workload{
		name: "w4b", what: "build and push in one go, RUN itself takes half of BuildKit's time", target: 0.6, floor: "w4b",
		setup: func(ctx context.Context, b *bench) error { return b.calibrate(ctx, push) },
		start: push.start,
		run: func(ctx context.Context, b *bench, e engine, round int) (outcome, error) {
			return e.build(ctx, request{dir: b.textDir(), args: textArgs("w4b", round, b.runSeconds), push: b.registry.ref(e.name() + "/w4b")})
		},
		after: func(ctx context.Context, b *bench, e engine, _ int, o outcome) error {
			if err := o.want(1, 0); err != nil {
				return err
			}
			return b.checkPushed(ctx, e.name()+"/w4b")
		},
	}
	pull := &workload{
		name: "w5", what: "pull and unpack of an image of 10 layers, 600 MB, then one RUN", target: 0.5, floor: "w5", setup: makeLayers, cold: true, writes: 1 << 30,
		read: func(ctx context.Context, b *bench, _ engine) error { return b.registry.read(ctx, "layers") },
		run: func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
			return e.build(ctx, request{dir: b.fixtureDir("pull")})
		},
		after: func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.want(1, 0) },
	}
	return []*workload{push, both, pull}
}

func (b *bench) textDir() string { return b.fixtureDir("text") }

func makeText(_ context.Context, b *bench) error {
	_, err := b.dockerfile("text", fmt.Sprintf("FROM %%BASE%%\nARG NONCE\nARG SECONDS\nRUN text $NONCE %d $SECONDS > /text\n", textBytes))
	return err
}

// textArgs gives every round a text of its own: the registry has no blob of it.
func textArgs(name string, round int, seconds float64) map[string]string {
	return map[string]string{"NONCE": name + strconv.Itoa(round), "SECONDS": strconv.FormatFloat(seconds, 'f', 1, 64)}
}

// checkPushed returns an error unless the registry has all of an image with a
// layer of the size that text has when it is compressed well.
func (b *bench) checkPushed(ctx context.Context, name string) error {
	m, err := b.registry.manifest(ctx, name)
	if err != nil {
		return err
	}
	if last := m.Layers[len(m.Layers)-1]; last.Size < textBytes/20 {
		return fmt.Errorf("last layer of %s has %d bytes", name, last.Size)
	}
	return nil
}

// calibrate finds out how long BuildKit takes to push the text, which is how
// long the step that makes it is to take.
func (b *bench) calibrate(ctx context.Context, push *workload) error {
	if err := makeText(ctx, b); err != nil || b.runSeconds > 0 {
		return err
	}
	for _, e := range b.engines {
		if e.name() != "buildkit" {
			continue
		}
		if err := e.fresh(ctx, push.network()); err != nil {
			return err
		}
		const round = 1000
		if err := push.before(ctx, b, e, round); err != nil {
			return err
		}
		start := time.Now()
		if _, err := push.run(ctx, b, e, round); err != nil {
			return err
		}
		b.runSeconds = time.Since(start).Seconds()
		return nil
	}
	b.runSeconds = 1 // nothing to compare with
	return nil
}

// makeLayers pushes the image of w5: in every layer one half compresses, and
// the other does not.
func makeLayers(ctx context.Context, b *bench) error {
	_, err := b.fixture("layers", func(dir string) error {
		var layers []layer
		for n := range layerCount {
			l, err := writeLayer(filepath.Join(dir, fmt.Sprintf("%02d.tar.gz", n)), func(t *tar.Writer) error { return fillLayer(t, n) })
			if err != nil {
				return err
			}
			layers = append(layers, l)
		}
		return b.registry.push(ctx, "layers", layers)
	})
	if err != nil {
		return err
	}
	_, err = b.dockerfile("pull", "FROM "+b.registry.ref("layers")+"\nRUN true\n")
	return err
}

func fillLayer(t *tar.Writer, n int) error {
	if n == 0 {
		if err := addHost(t, "bin", 0o755, "/bin/busybox"); err != nil {
			return err
		}
		for _, name := range []string{"sh", "true"} {
			if err := t.WriteHeader(&tar.Header{Name: "bin/" + name, Linkname: "busybox", Typeflag: tar.TypeSymlink, Mode: 0o777}); err != nil {
				return err
			}
		}
	}
	for i := range layerFiles {
		const size = layerBytes / layerFiles
		seed := uint64(n*layerFiles + i + 1)
		r := prose.Size(seed, size)
		if i%2 == 0 {
			r = io.LimitReader(prose.NewNoise(seed), size)
		}
		if err := addFile(t, fmt.Sprintf("data/%d/%d/file%d", n, i/50, i), 0o644, size, r); err != nil {
			return err
		}
	}
	return nil
}

// cacheDir is where what takes long to make is kept from run to run.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "buildd", "bench")
	return dir, os.MkdirAll(dir, 0o755)
}
