package gateway

import (
	"context"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewContainer implements gwpb.LLBBridgeServer.
func (s *Session) NewContainer(ctx context.Context, in *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	if in.ContainerID == "" {
		return nil, status.Error(codes.InvalidArgument, "a container needs an ID")
	}
	req := gwclient.NewContainerRequest{
		Hostname: in.Hostname, NetMode: in.Network, ExtraHosts: in.ExtraHosts, Platform: in.Platform, Constraints: in.Constraints,
	}
	for _, m := range in.Mounts {
		ref, err := s.ref(m.ResultID)
		if err != nil {
			return nil, err
		}
		req.Mounts = append(req.Mounts, gwclient.Mount{
			Selector: m.Selector, Dest: m.Dest, ResultID: m.ResultID, Ref: ref, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		})
	}
	if _, err := s.container(in.ContainerID); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "container %q exists already", in.ContainerID)
	}
	c, err := s.client.NewContainer(ctx, req)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.containers[in.ContainerID] = c
	return &gwpb.NewContainerResponse{}, nil
}

// ReleaseContainer implements gwpb.LLBBridgeServer.
func (s *Session) ReleaseContainer(ctx context.Context, in *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	c, err := s.container(in.ContainerID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.containers, in.ContainerID)
	s.mu.Unlock()
	return &gwpb.ReleaseContainerResponse{}, c.Release(ctx)
}

func (s *Session) container(id string) (gwclient.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, status.Errorf(codes.NotFound, "container %q was released or never made", id)
	}
	return c, nil
}

// Warn implements gwpb.LLBBridgeServer.
func (s *Session) Warn(ctx context.Context, in *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	err := s.client.Warn(ctx, digest.Digest(in.Digest), string(in.Short), gwclient.WarnOpts{
		Level: int(in.Level), SourceInfo: in.Info, Range: in.Ranges, Detail: in.Detail, URL: in.Url,
	})
	return &gwpb.WarnResponse{}, err
}
