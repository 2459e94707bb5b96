package agent

import (
	"bytes"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

const (
	// api is the version of the protocol, see proto/README.md.
	api = 1
	// MaxMessage is what one message may have: an op of 16 MiB, which is what
	// clients can send, with what goes along with it.
	MaxMessage = 32 << 20
	// chunk is how much of a layer or blob one message carries.
	chunk = 256 << 10
	// maxID bounds names of layers and leases; a chain ID has 71 bytes.
	maxID = 128
)

// layerOf writes a header for the wire.
func layerOf(h tree.Header) *workerv1.Layer {
	l := &workerv1.Layer{Id: string(h.ID)}
	if h.Image == nil {
		l.Content = h.Content[:]
		return l
	}
	d := h.Image.Desc
	l.Image = &workerv1.ImageLayer{
		DiffId: h.Image.DiffID.String(), Parent: string(h.Parent),
		Blob: &workerv1.Blob{Digest: d.Digest.String(), Size: d.Size, MediaType: d.MediaType},
	}
	return l
}

// headerOf reads what layerOf wrote. The store checks what the header says.
func headerOf(l *workerv1.Layer) (tree.Header, error) {
	h := tree.Header{ID: cache.LayerID(l.GetId())}
	if h.ID == "" || len(h.ID) > maxID {
		return h, fmt.Errorf("layer %.80q: want an ID of at most %d bytes", h.ID, maxID)
	}
	if l.Image == nil {
		if len(l.Content) != len(h.Content) {
			return h, fmt.Errorf("layer %s: content of %d bytes: want %d", h.ID, len(l.Content), len(h.Content))
		}
		h.Content = cache.Key(l.Content)
		return h, nil
	}
	if len(l.Content) > 0 {
		return h, fmt.Errorf("layer %s of an image has a content: it goes by its diff ID", h.ID)
	}
	desc, err := descOf(l.Image.GetBlob())
	if err != nil {
		return h, fmt.Errorf("layer %s: %w", h.ID, err)
	}
	if len(l.Image.Parent) > maxID {
		return h, fmt.Errorf("layer %s: the one below it has a name of %d bytes", h.ID, len(l.Image.Parent))
	}
	h.Parent = cache.LayerID(l.Image.Parent)
	h.Image = &tree.ImageLayer{DiffID: digest.Digest(l.Image.DiffId), Desc: desc}
	return h, nil
}

func descOf(b *workerv1.Blob) (ocispecs.Descriptor, error) {
	d := ocispecs.Descriptor{Digest: digest.Digest(b.GetDigest()), Size: b.GetSize(), MediaType: b.GetMediaType()}
	if err := d.Digest.Validate(); err != nil {
		return d, fmt.Errorf("blob %.100q: %w", b.GetDigest(), err)
	}
	if d.Size < 0 || len(d.MediaType) > maxID {
		return d, fmt.Errorf("blob %s: size %d, media type %.100q", d.Digest, d.Size, d.MediaType)
	}
	return d, nil
}

// chunks reads what comes in pieces.
type chunks struct {
	next func() ([]byte, error)
	rest []byte
}

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		var err error
		if c.rest, err = c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// chunkWriter passes on what it is given in pieces that may be kept.
type chunkWriter func([]byte) error

func (w chunkWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		part := p[n:min(len(p), n+chunk)]
		if err := w(bytes.Clone(part)); err != nil {
			return n, err
		}
		n += len(part)
	}
	return len(p), nil
}
