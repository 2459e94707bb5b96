package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/buildd/buildd/proto/gather"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/upload"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// UploadHost is the host of URLs that name what a client uploads, such as a tar
// context on its standard input: http://buildkit-session/ID.
const UploadHost = "buildkit-session"

// Upload copies what a client uploads under u to w and returns the number of
// bytes. An upload that no client has is ErrNotFound.
func Upload(ctx context.Context, c Client, u *url.URL, w io.Writer) (int64, error) {
	var n int64
	err := On(ctx, c, "", func(ctx context.Context, _ string, caller bksession.Caller) error {
		if n > 0 {
			return errors.New("the upload broke off")
		}
		up, err := upload.New(ctx, caller, u)
		if err != nil {
			return err
		}
		n, err = up.WriteTo(w)
		return err
	})
	switch code := grpcerrors.Code(err); {
	case err == nil:
		return n, nil
	case code == codes.Unimplemented, code == codes.NotFound:
		return n, fmt.Errorf("upload %s %w: the client sends no such stream", u, ErrNotFound)
	default:
		return n, fmt.Errorf("receive upload %s: %w", u, err)
	}
}

// Metadata of a call to an exporter's output, as in BuildKit's session/filesync.
const (
	exporterKey        = "buildkit-attachable-exporter-id"
	exporterMetaPrefix = "exporter-md-"
)

// SendDir sends files to the directory that the client named for its exporter
// number id. progress gets the bytes sent so far and whether that is all; it
// may be nil.
func SendDir(ctx context.Context, caller bksession.Caller, id int, files fsutil.FS, progress func(int, bool), opts ...filesync.CopyToCallerOpt) error {
	if err := offersOutput(caller); err != nil {
		return err
	}
	if err := filesync.CopyToCaller(ctx, files, id, caller, progress, opts...); err != nil {
		return fmt.Errorf("send files to client: %w", cause(ctx, err))
	}
	return nil
}

// SendFile sends what write writes to the file or stream that the client named
// for its exporter number id. meta is told to the client beforehand. If write
// fails the client learns that the file is not whole.
func SendFile(ctx context.Context, caller bksession.Caller, id int, meta map[string]string, write func(w io.Writer) error) error {
	if err := offersOutput(caller); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // breaks the stream unless it was closed
	w, err := openOutput(ctx, caller, id, meta)
	if err != nil {
		return fmt.Errorf("open client's output: %w", cause(ctx, err))
	}
	if err := write(w); err != nil {
		return fmt.Errorf("send file to client: %w", cause(ctx, err))
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("finish client's output: %w", cause(ctx, err))
	}
	return nil
}

// openOutput opens the output of an exporter. It is whole when Close returns nil,
// and broken if ctx ends before.
func openOutput(ctx context.Context, caller bksession.Caller, id int, meta map[string]string) (io.WriteCloser, error) {
	md := metadata.Pairs(exporterKey, strconv.Itoa(id))
	for k, v := range meta {
		md.Append(exporterMetaPrefix+k, v)
	}
	c, done, err := call(ctx, caller, filesync.FileSend_DiffCopy_FullMethodName, md)
	if errors.Is(err, errNothingLent) {
		return filesync.CopyFileWriter(ctx, meta, id, caller)
	}
	if err != nil {
		return nil, err
	}
	o := &output{call: c, done: done, ended: make(chan error, 1)}
	o.Writer = gather.NewWriter(o.send)
	go func() { // ends with the call
		_, err := c.Recv()
		if err == nil {
			err = errors.New("the client sends what it should receive")
		}
		o.ended <- err
	}()
	context.AfterFunc(ctx, func() { _ = o.Writer.Close() })
	return o, nil
}

// output is a client's output over a stream that it lends.
type output struct {
	*gather.Writer
	call  *filesyncv1.Call
	done  func()
	ended chan error // how the call did; io.EOF if well
}

// send fails early if the client has.
func (o *output) send(data []byte) error {
	select {
	case err := <-o.ended:
		o.ended <- err
		return fmt.Errorf("client's output ended early: %w", err)
	default:
		return o.call.Send(data)
	}
}

func (o *output) Close() error {
	defer o.done()
	if err := o.Writer.Close(); err != nil {
		return err
	}
	if err := o.call.CloseSend(); err != nil {
		return err
	}
	if err := <-o.ended; !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func offersOutput(caller bksession.Caller) error {
	if caller.Supports(bksession.MethodURL(filesync.FileSend_ServiceDesc.ServiceName, "diffcopy")) {
		return nil
	}
	return fmt.Errorf("client output %w: the client takes no files, pass --output type=TYPE,dest=PATH", ErrNotFound)
}

// cause names why ctx ended rather than what broke because of it.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
