package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/upload"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"
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

// ReceiveDir makes o.DestDir what a client's directory o.Name is. A directory
// that the client does not give out is ErrNotFound.
func ReceiveDir(ctx context.Context, caller bksession.Caller, o filesync.FSSendRequestOpt) error {
	err := filesync.FSSync(ctx, caller, o)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("receive local directory %q: %w", o.Name, context.Cause(ctx))
	}
	if code := grpcerrors.Code(err); code == codes.NotFound || code == codes.Unimplemented || !offersDirs(caller) {
		return fmt.Errorf("local directory %q %w: pass --local %s=DIR (%w)", o.Name, ErrNotFound, o.Name, err)
	}
	return fmt.Errorf("receive local directory %q: %w", o.Name, err)
}

func offersDirs(caller bksession.Caller) bool {
	return caller.Supports(bksession.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy"))
}

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
	w, err := filesync.CopyFileWriter(ctx, meta, id, caller)
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
