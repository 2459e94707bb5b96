package agent

import (
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
)

// PutLayer implements the service.
func (s *Server) PutLayer(stream grpc.ClientStreamingServer[workerv1.PutLayerRequest, workerv1.PutLayerResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetHeader() == nil {
		return status.Error(codes.InvalidArgument, "the first message has no header")
	}
	h, err := headerOf(first.GetHeader().Layer)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	lease, done, err := s.leases.use(first.GetHeader().Lease)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	defer done()
	r := &chunks{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	t, err := s.cfg.Trees.Import(stream.Context(), h, r)
	if err == nil {
		err = lease.add(t)
	}
	if err != nil {
		return statusOf(err)
	}
	return stream.SendAndClose(&workerv1.PutLayerResponse{})
}

// GetLayer implements the service.
func (s *Server) GetLayer(r *workerv1.GetLayerRequest, stream grpc.ServerStreamingServer[workerv1.GetLayerResponse]) error {
	w := chunkWriter(func(b []byte) error { return stream.Send(&workerv1.GetLayerResponse{Data: b}) })
	var bases []cache.LayerID
	for _, id := range r.Bases {
		bases = append(bases, cache.LayerID(id))
	}
	err := s.cfg.Trees.Export(stream.Context(), cache.LayerID(r.Id), w, bases...)
	if errors.Is(err, cache.ErrNotFound) {
		return status.Error(codes.NotFound, err.Error())
	}
	return statusOf(err)
}

// PutBlob implements the service.
func (s *Server) PutBlob(stream grpc.ClientStreamingServer[workerv1.PutBlobRequest, workerv1.PutBlobResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	desc, err := descOf(first.GetHeader())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	free, err := freeBytes(s.cfg.Dir)
	if err != nil {
		return err
	}
	if desc.Size > free {
		return status.Errorf(codes.ResourceExhausted, "blob %s has %d bytes, %d are free", desc.Digest, desc.Size, free)
	}
	r := &chunks{next: func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	}}
	if err := s.cfg.Blobs.Ingest(stream.Context(), desc, r); err != nil {
		return statusOf(err)
	}
	return stream.SendAndClose(&workerv1.PutBlobResponse{})
}

// GetBlob implements the service.
func (s *Server) GetBlob(r *workerv1.GetBlobRequest, stream grpc.ServerStreamingServer[workerv1.GetBlobResponse]) error {
	d := digest.Digest(r.Digest)
	if err := d.Validate(); err != nil {
		return status.Errorf(codes.InvalidArgument, "blob %.100q: %v", r.Digest, err)
	}
	ra, err := s.cfg.Blobs.ReaderAt(stream.Context(), ocispecs.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		return status.Errorf(codes.NotFound, "blob %s is not here", d)
	}
	if err != nil {
		return statusOf(err)
	}
	defer ra.Close()
	w := chunkWriter(func(b []byte) error { return stream.Send(&workerv1.GetBlobResponse{Data: b}) })
	_, err = io.CopyBuffer(w, io.NewSectionReader(onlyReaderAt{ra}, 0, ra.Size()), make([]byte, chunk))
	return statusOf(err)
}

// onlyReaderAt hides what else a content.ReaderAt can do.
type onlyReaderAt struct{ content.ReaderAt }
