package imageapi

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/image"
	imagesv1 "github.com/buildd/buildd/proto/buildd/images/v1"
)

// Names is the part of image.Store that is used.
type Names interface {
	List(ctx context.Context) ([]image.Image, error)
	Delete(ctx context.Context, name string) error
}

// Config is what a Server stands on.
type Config struct {
	Images Names
	Blobs  content.Provider
	// Removed, if set, is called when a name was removed: what it led to may be
	// garbage now.
	Removed func()
}

// Server implements imagesv1.ImagesServer.
type Server struct {
	imagesv1.UnimplementedImagesServer
	c Config
}

// New returns a Server.
func New(c Config) *Server { return &Server{c: c} }

// Register serves the API on srv.
func (s *Server) Register(srv grpc.ServiceRegistrar) { imagesv1.RegisterImagesServer(srv, s) }

// List implements imagesv1.ImagesServer.
func (s *Server) List(ctx context.Context, _ *imagesv1.ListRequest) (*imagesv1.ListResponse, error) {
	images, err := s.c.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &imagesv1.ListResponse{Images: make([]*imagesv1.Image, len(images))}
	for i, img := range images {
		// An image whose blobs are damaged is listed all the same, or nobody could
		// find its name to remove it.
		tree, err := readTree(ctx, s.c.Blobs, img.Target)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			tree = imageTree{}
		}
		out.Images[i] = describe(img, tree)
	}
	return out, nil
}

// Get implements imagesv1.ImagesServer.
func (s *Server) Get(ctx context.Context, req *imagesv1.GetRequest) (*imagesv1.GetResponse, error) {
	img, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	tree, err := readTree(ctx, s.c.Blobs, img.Target)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.Name, err)
	}
	out := &imagesv1.GetResponse{Image: describe(img, tree), Index: tree.index}
	for _, m := range tree.manifests {
		out.Manifests = append(out.Manifests, &imagesv1.Manifest{
			Target: descriptor(m.desc), Platform: m.platform, Manifest: m.bytes, Config: m.config,
		})
	}
	return out, nil
}

// Remove implements imagesv1.ImagesServer.
func (s *Server) Remove(ctx context.Context, req *imagesv1.RemoveRequest) (*imagesv1.RemoveResponse, error) {
	img, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if err := s.c.Images.Delete(ctx, img.Name); err != nil {
		return nil, withCode(err)
	}
	if s.c.Removed != nil {
		s.c.Removed()
	}
	return &imagesv1.RemoveResponse{Target: descriptor(img.Target)}, nil
}

// find returns the image that a name in any form stands for.
func (s *Server) find(ctx context.Context, name string) (image.Image, error) {
	full, err := image.Normalize(name)
	if err != nil {
		return image.Image{}, status.Error(codes.InvalidArgument, err.Error())
	}
	images, err := s.c.Images.List(ctx)
	if err != nil {
		return image.Image{}, err
	}
	for _, img := range images {
		if img.Name == full {
			return img, nil
		}
	}
	return image.Image{}, status.Errorf(codes.NotFound, "image %s: not in the store", full)
}

func withCode(err error) error {
	if errors.Is(err, cache.ErrNotFound) {
		return status.Error(codes.NotFound, err.Error())
	}
	return err
}

func describe(img image.Image, t imageTree) *imagesv1.Image {
	out := &imagesv1.Image{
		Name: img.Name, Target: descriptor(img.Target), Size: t.size,
		CreatedNs: img.Created.UnixNano(), UpdatedNs: img.Updated.UnixNano(),
	}
	for _, m := range t.manifests {
		if m.platform != "" {
			out.Platforms = append(out.Platforms, m.platform)
		}
	}
	return out
}

func descriptor(d ocispecs.Descriptor) *imagesv1.Descriptor {
	return &imagesv1.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}
