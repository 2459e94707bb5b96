package export

import (
	"bufio"
	"context"
	"io"

	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/worker/session"
	bksession "github.com/moby/buildkit/session"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Exporter is one output of a build, configured by its attributes.
//
// It comes to life when the request arrives, so that a wrong attribute fails the
// build at once and so that [Exporter.Compression] is known while steps run.
// When all platforms are built Export is called, once per build; exporters of
// one build run side by side over the same Input and must not change it. What
// cannot be taken back stays out of Export: it is left to [Result.Finalize],
// which runs only if every exporter of the build has succeeded, side by side
// with the export of the cache. An exporter owns nothing that would have to be
// closed, so a build that fails before Export just forgets it; one that fails
// after it calls [Result.Discard].
//
// The caller holds a lease over the trees of the Input until Finalize is done.
type Exporter interface {
	// Type is the name that the Set was asked for, such as "image".
	Type() string
	// Name is what progress calls the whole export.
	Name() string
	// Compression is that of the layers that the exporter will ask for; nil if it
	// asks for none.
	Compression() *layer.Compression
	Export(ctx context.Context, in Input, r Request) (*Result, error)
}

// Request is what an exporter needs to know of the build that it works for.
type Request struct {
	// ID is the exporter's place in the request's list; clients tell the streams
	// of several exporters apart by it.
	ID int
	// Client is the build's session.
	Client session.Client
	// Provider brings the blobs of layers that were never fetched; nil if every
	// layer is known to be here.
	Provider tree.Provider
	// Progress is told of every part of the work; nil for nobody.
	Progress Progress
	// Bytes tells how far a part is that Progress opened; nil for nobody.
	Bytes func(id string, n int64)

	// follow gets layers that the exporter itself wants while they are made.
	follow func(*blob.Growing)
}

// Progress says that a part of the export begins; done says that it ended.
type Progress func(id string) (done func(error))

// Result is what became of an export.
type Result struct {
	// Response goes to the client, under the keys of BuildKit's exptypes.
	Response map[string]string
	// Descriptor is that of the image or index; nil if none was made. History
	// records keep it.
	Descriptor *ocispecs.Descriptor
	// Finalize does what must wait for the other exporters; nil if nothing must.
	Finalize func(ctx context.Context) error
	// Discard gives up what was begun for Finalize, and is called instead of it
	// if the build fails; nil if nothing was.
	Discard func()
}

// step runs f as a part of the export that progress shows.
func (r Request) step(id string, f func() error) error {
	done := r.part(id)
	err := f()
	done(err)
	return err
}

// part says that a part of the export begins.
func (r Request) part(id string) (done func(error)) {
	if r.Progress == nil {
		return func(error) {}
	}
	return r.Progress(id)
}

// sendBuffer makes messages of a size that does not let their number be what
// sending an archive takes.
const sendBuffer = 256 << 10

// sendFile sends what write writes to the client's output.
func (r Request) sendFile(ctx context.Context, meta map[string]string, write func(context.Context, io.Writer) error) error {
	return r.onClient(ctx, func(ctx context.Context, c bksession.Caller) error {
		return session.SendFile(ctx, c, r.ID, meta, func(w io.Writer) error {
			buf := bufio.NewWriterSize(w, sendBuffer)
			if err := write(ctx, buf); err != nil {
				return err
			}
			return buf.Flush()
		})
	})
}

// onClient runs f on the client's first session only: what f has sent by the
// time that it fails would arrive twice on a second one.
func (r Request) onClient(ctx context.Context, f func(context.Context, bksession.Caller) error) error {
	var ran bool
	var first error
	return session.On(ctx, r.Client, "", func(ctx context.Context, _ string, c bksession.Caller) error {
		if !ran {
			ran = true
			first = f(ctx, c)
		}
		return first
	})
}
