package remotecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// bucket is where objects are by key.
type bucket interface {
	Get(ctx context.Context, key string, limit int64) ([]byte, error)
	Open(ctx context.Context, key string, size int64) (content.ReaderAt, error)
	// Stat returns cache.ErrNotFound for an object that is not there.
	Stat(ctx context.Context, key string) (modified time.Time, size int64, err error)
	Put(ctx context.Context, key string, r io.ReaderAt, size int64) error
	// Touch makes an object as new, for what removes old ones.
	Touch(ctx context.Context, key string, size int64) error
}

// objects is a cache in a bucket: blobs by digest, and documents by name.
type objects struct {
	bucket
	title, place         string
	blobPrefix, manifest string
	names                []string
	// touch is how old blobs may become; 0 never touches them.
	touch    time.Duration
	parallel int
}

// takeNames takes the names of a document, the one that is read first.
func takeNames(a attrs) []string {
	var out []string
	for n := range strings.SplitSeq(a.text("name", "buildkit"), ";") {
		if n != "" {
			out = append(out, n)
		}
	}
	return out
}

func (o *objects) name() string { return o.title }

func (o *objects) id() string {
	if len(o.names) == 0 {
		return o.place
	}
	return o.place + " " + o.names[0]
}

func (o *objects) images() string { return "" }

func (o *objects) blobKey(d digest.Digest) string { return o.blobPrefix + d.String() }

func (o *objects) write(ctx context.Context, _ session.Client, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (map[string]string, error) {
	data, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if err := remote.WriteBlobs(ctx, objectTarget{o}, blobs, o.parallel, step); err != nil {
		return nil, fmt.Errorf("%s: %w", o.place, err)
	}
	for _, n := range o.names {
		done := step("writing cache manifest " + n)
		err := o.bucket.Put(ctx, o.manifest+n, bytes.NewReader(data), int64(len(data)))
		done(err)
		if err != nil {
			return nil, fmt.Errorf("%s: write manifest %s: %w", o.place, n, err)
		}
	}
	return nil, nil
}

// Put implements remote.Target.
func (t objectTarget) Put(ctx context.Context, desc ocispecs.Descriptor, _ []string, open remote.Open) error {
	o := t.objects
	key := o.blobKey(desc.Digest)
	modified, size, err := o.Stat(ctx, key)
	switch {
	case err == nil && size == desc.Size:
		if o.touch > 0 && time.Since(modified) > o.touch {
			return o.Touch(ctx, key, size)
		}
		return nil
	case err != nil && !errors.Is(err, cache.ErrNotFound):
		return err
	}
	ra, err := open(ctx)
	if err != nil {
		return err
	}
	defer ra.Close()
	return o.bucket.Put(ctx, key, ra, desc.Size)
}

func (o *objects) read(ctx context.Context, _ session.Client) ([]*remote.Document, error) {
	if len(o.names) == 0 {
		return nil, errors.New("no name is given")
	}
	data, err := o.Get(ctx, o.manifest+o.names[0], remote.MaxDocument)
	if err != nil {
		return nil, err
	}
	d, err := remote.Decode(data)
	if err != nil {
		return nil, err
	}
	return []*remote.Document{d}, nil
}

func (o *objects) blob(ctx context.Context, _ session.Client, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return o.Open(ctx, o.blobKey(desc.Digest), desc.Size)
}

// objectTarget is objects as what blobs are written to.
type objectTarget struct{ *objects }
