package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const packages = 100

// debianTar is the root file system of a minimal Debian, kept from run to run.
func debianTar() (string, error) {
	dir, err := cacheDir()
	return filepath.Join(dir, "debian-bookworm.tar"), err
}

// makeDebian makes it from Debian's packages, which takes a minute or two.
func makeDebian() error {
	path, err := debianTar()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Fprintln(os.Stderr, "making a Debian root file system, which takes some minutes the first time")
	part := filepath.Join(filepath.Dir(path), "new.tar") // the name says what mmdebstrap makes
	if err := command(context.Background(), filepath.Join(programs(), "../../examples/make-debian"), part); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// packagesWorkload is w9.
func packagesWorkload() *workload {
	w := plain(workload{name: "w9", what: "RUN dpkg -i of 100 packages", target: 0.6, floor: "w9", debian: true}, "FROM %DEBS%\nARG NONCE\nRUN dpkg -i /debs/*.deb\n", 1)
	setup := w.setup
	w.setup = func(ctx context.Context, b *bench) error { return errors.Join(makePackages(ctx, b), setup(ctx, b)) }
	w.start = func(ctx context.Context, b *bench, e engine) error {
		dir, err := b.dockerfile("debswarm", "FROM %DEBS%\nRUN true\n")
		if err != nil {
			return err
		}
		_, err = e.build(ctx, request{dir: dir})
		return err
	}
	return w
}

// makePackages pushes an image of Debian with small packages in /debs.
func makePackages(ctx context.Context, b *bench) error {
	_, err := b.fixture("debs", func(dir string) error {
		for i := range packages {
			if err := makePackage(ctx, dir, i); err != nil {
				return err
			}
		}
		root, err := debianTar()
		if err != nil {
			return err
		}
		if err := os.Symlink(root, filepath.Join(b.dir, "debian.tar")); err != nil { // for bench/floor
			return err
		}
		system, err := compressLayer(filepath.Join(b.dir, "debian.tar.gz"), func(w io.Writer) error { return copyFile(w, root) })
		if err != nil {
			return err
		}
		debs, err := writeLayer(filepath.Join(b.dir, "debs.tar.gz"), func(t *tar.Writer) error {
			for i := range packages {
				if err := addHost(t, "debs", 0o644, filepath.Join(dir, fmt.Sprint("bench", i, ".deb"))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return b.registry.push(ctx, "debs", []layer{system, debs})
	})
	return err
}

func makePackage(ctx context.Context, dir string, i int) error {
	name := fmt.Sprint("bench", i)
	root := filepath.Join(dir, name)
	files := map[string]string{
		"DEBIAN/control":         fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: bench <bench@example.com>\nDescription: nothing\n", name),
		"usr/bin/" + name:        "#!/bin/sh\necho " + name + "\n",
		"usr/lib/" + name + "/a": name,
		"usr/lib/" + name + "/b": name,
	}
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return err
		}
	}
	return command(ctx, "dpkg-deb", "--root-owner-group", "-Zgzip", "--build", root, root+".deb")
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
