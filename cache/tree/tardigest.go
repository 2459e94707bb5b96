package tree

import (
	"hash"
	"io"

	"crypto/sha256"

	ocidigest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// tarDigest passes on what is written to it and digests it on another core
// meanwhile.
type tarDigest struct {
	w     io.Writer
	h     hash.Hash
	full  chan []byte
	free  chan []byte
	group errgroup.Group
}

// digestBuffers bounds how far the digest may lag behind.
const digestBuffers = 8

func newTarDigest(w io.Writer) *tarDigest {
	d := &tarDigest{w: w, h: sha256.New(), full: make(chan []byte, digestBuffers), free: make(chan []byte, digestBuffers)}
	for range digestBuffers {
		d.free <- nil
	}
	d.group.Go(func() error {
		for b := range d.full {
			d.h.Write(b)
			d.free <- b
		}
		return nil
	})
	return d
}

func (d *tarDigest) Write(p []byte) (int, error) {
	d.full <- append((<-d.free)[:0], p...)
	return d.w.Write(p)
}

// finish returns the digest of all that was written. Nothing can be written
// after it.
func (d *tarDigest) finish() ocidigest.Digest {
	close(d.full)
	d.group.Wait()
	return ocidigest.NewDigestFromBytes(ocidigest.SHA256, d.h.Sum(nil))
}
