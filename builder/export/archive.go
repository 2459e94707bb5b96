package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/layer"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/util/grpcerrors"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
)

// clientStore is the name of the content store that clients offer for an image
// that is not to be an archive.
const clientStore = "export"

// imageArchive sends an image to the client: as an OCI image layout, which
// type=docker extends by the manifest.json that "docker load" reads.
type imageArchive struct {
	w    *writer
	typ  string
	o    imageOptions
	tar  bool
	meta attrs
}

func newArchive(w *writer, typ string, m map[string]string) (Exporter, error) {
	a := newAttrs(m)
	o, err := parseImageOptions(a, false)
	if err != nil {
		return nil, err
	}
	e := &imageArchive{w: w, typ: typ, o: o, tar: true, meta: a}
	_, err = a.flag("tar", &e.tar)
	return e, err
}

func (e *imageArchive) Type() string                    { return e.typ }
func (e *imageArchive) Name() string                    { return "exporting to " + e.typ + " image format" }
func (e *imageArchive) Compression() *layer.Compression { return &e.o.compression }

func (e *imageArchive) Export(ctx context.Context, in Input, r Request) (*Result, error) {
	if e.typ == TypeDocker && in.Multi {
		return nil, errors.New("docker exporter does not currently support exporting manifest lists: use type=oci or one platform")
	}
	in, err := in.with(e.meta)
	if err != nil {
		return nil, err
	}
	names, err := archiveNames(e.o.names(in))
	if err != nil {
		return nil, err
	}
	img, err := e.w.write(ctx, in, e.o, r)
	if err != nil {
		return nil, err
	}
	defer img.hold()()
	desc := img.dated(e.o.epoch.all(in))
	res, err := img.result(desc)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		res.Response[exptypes.ExporterImageNameKey] = strings.Join(names, ",")
	}
	if err := img.fetchAll(ctx); err != nil {
		return nil, err
	}
	if !e.tar {
		return res, r.step("sending image", func() error {
			return r.onClient(ctx, func(ctx context.Context, c bksession.Caller) error {
				return copyImage(ctx, sessioncontent.NewCallerStore(c, clientStore), img.blobs, desc)
			})
		})
	}
	return res, e.send(ctx, img, desc, names, in, r, res.Response)
}

// send sends the image as one archive.
func (e *imageArchive) send(ctx context.Context, img *madeImage, desc ocispecs.Descriptor, names []string, in Input, r Request, meta map[string]string) error {
	opts := []archive.ExportOpt{archive.WithManifest(desc, names...), archive.WithAllPlatforms()}
	if e.typ == TypeOCI {
		opts = append(opts, archive.WithSkipDockerManifest())
	} else {
		// With attestations there is an index, of which manifest.json names one image.
		opts = append(opts, archive.WithPlatform(platforms.Only(in.Platforms[0].Platform)))
	}
	return r.step("sending tarball", func() error {
		err := r.sendFile(ctx, meta, func(ctx context.Context, w io.Writer) error {
			return archive.Export(ctx, img.blobs, w, opts...)
		})
		// The client looked at the digest and has the image already.
		if grpcerrors.Code(err) == codes.AlreadyExists {
			return nil
		}
		return err
	})
}

// dated returns the image's descriptor with the annotation that archives date
// their images by.
func (img *madeImage) dated(epoch *time.Time) ocispecs.Descriptor {
	desc := img.desc
	if _, ok := desc.Annotations[ocispecs.AnnotationCreated]; ok {
		return desc
	}
	at := time.Now()
	switch {
	case epoch != nil:
		at = *epoch
	case img.created != nil:
		at = *img.created // rather than the clock: equal images make equal archives
	}
	annotations := map[string]string{ocispecs.AnnotationCreated: at.UTC().Format(time.RFC3339)}
	for k, v := range desc.Annotations {
		annotations[k] = v
	}
	desc.Annotations = annotations
	return desc
}

// archiveNames writes names out in full, as archives have them.
func archiveNames(list string) ([]string, error) {
	names, err := splitNames(list)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return nil, fmt.Errorf("image name %q: %w", name, err)
		}
		names[i] = reference.TagNameOnly(ref).String()
	}
	return names, nil
}
