package main

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer is a compressed layer in a file.
type layer struct {
	path   string
	desc   ocispecs.Descriptor
	diffID digest.Digest
}

// writeLayer makes a layer of what fill writes.
func writeLayer(path string, fill func(t *tar.Writer) error) (layer, error) {
	return compressLayer(path, func(w io.Writer) error {
		t := tar.NewWriter(w)
		if err := fill(t); err != nil {
			return err
		}
		return t.Close()
	})
}

// compressLayer makes a layer of a tar.
func compressLayer(path string, write func(w io.Writer) error) (layer, error) {
	f, err := os.Create(path)
	if err != nil {
		return layer{}, err
	}
	defer f.Close()
	packed, plain := digest.SHA256.Digester(), digest.SHA256.Digester()
	z := gzip.NewWriter(io.MultiWriter(f, packed.Hash()))
	if err := write(io.MultiWriter(z, plain.Hash())); err != nil {
		return layer{}, err
	}
	if err := z.Close(); err != nil {
		return layer{}, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return layer{}, err
	}
	return layer{
		path: path, diffID: plain.Digest(),
		desc: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: size},
	}, nil
}

// addFile adds a file of size bytes from r.
func addFile(t *tar.Writer, name string, mode, size int64, r io.Reader) error {
	h := &tar.Header{Name: name, Mode: mode, Size: size, ModTime: time.Unix(1, 0), Typeflag: tar.TypeReg}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyN(t, r, size)
	return err
}

// addHost adds a file of this machine to a directory.
func addHost(t *tar.Writer, dir string, mode int64, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return addFile(t, dir+"/"+filepath.Base(path), mode, info.Size(), f)
}
