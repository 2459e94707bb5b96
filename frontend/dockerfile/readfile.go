package dockerfile

import (
	"context"
	"fmt"
	"io"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// maxFileSize bounds a file that is read into memory: one gRPC message, as a frontend that runs elsewhere could not get more.
const maxFileSize = 16 << 20

// tooLargeError names a file that exceeds maxFileSize.
type tooLargeError struct{ name string }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("%s exceeds maximum allowed size of %d bytes", e.name, maxFileSize)
}

// readFile returns a file of ref, whole.
func readFile(ctx context.Context, ref gwclient.Reference, name string) ([]byte, error) {
	if ref == nil {
		return nil, notExist(name)
	}
	data, err := ref.ReadFile(ctx, gwclient.ReadRequest{Filename: name, Range: &gwclient.FileRange{Length: maxFileSize + 1}})
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileSize {
		return nil, &tooLargeError{name}
	}
	return data, nil
}

// refReader reads a file of any size piece by piece.
type refReader struct {
	ctx    context.Context
	ref    gwclient.Reference
	name   string
	offset int
	buf    []byte
	last   bool
}

const chunkSize = 1 << 20

func (r *refReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 && !r.last {
		var err error
		r.buf, err = r.ref.ReadFile(r.ctx, gwclient.ReadRequest{
			Filename: r.name,
			Range:    &gwclient.FileRange{Offset: r.offset, Length: chunkSize},
		})
		if err != nil {
			return 0, err
		}
		r.offset += len(r.buf)
		r.last = len(r.buf) < chunkSize
	}
	if len(r.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// readError keeps the error of r, to tell it from one of what is read.
type readError struct {
	r   io.Reader
	err error
}

func (e *readError) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && err != io.EOF {
		e.err = err
	}
	return n, err
}
