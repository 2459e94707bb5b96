package gateway

import (
	"context"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
)

func readRequest(in *gwpb.ReadFileRequest) gwclient.ReadRequest {
	r := gwclient.ReadRequest{Filename: in.FilePath}
	if in.Range != nil {
		r.Range = &gwclient.FileRange{Offset: int(in.Range.Offset), Length: int(in.Range.Length)}
	}
	return r
}

// Evaluate implements gwpb.LLBBridgeServer.
func (s *Session) Evaluate(ctx context.Context, in *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	r, err := s.ref(in.Ref)
	if err == nil && r != nil {
		err = r.Evaluate(ctx)
	}
	return &gwpb.EvaluateResponse{}, err
}

// ReadFile implements gwpb.LLBBridgeServer.
func (s *Session) ReadFile(ctx context.Context, in *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	r, err := s.mustRef(in.Ref)
	if err != nil {
		return nil, err
	}
	b, err := r.ReadFile(ctx, readRequest(in))
	return &gwpb.ReadFileResponse{Data: b}, err
}

// ReadDir implements gwpb.LLBBridgeServer.
func (s *Session) ReadDir(ctx context.Context, in *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	r, err := s.mustRef(in.Ref)
	if err != nil {
		return nil, err
	}
	es, err := r.ReadDir(ctx, gwclient.ReadDirRequest{Path: in.DirPath, IncludePattern: in.IncludePattern})
	return &gwpb.ReadDirResponse{Entries: es}, err
}

// StatFile implements gwpb.LLBBridgeServer.
func (s *Session) StatFile(ctx context.Context, in *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	r, err := s.mustRef(in.Ref)
	if err != nil {
		return nil, err
	}
	st, err := r.StatFile(ctx, gwclient.StatRequest{Path: in.Path})
	return &gwpb.StatFileResponse{Stat: st}, err
}

// ReadFileContainer implements gwpb.LLBBridgeServer.
func (s *Session) ReadFileContainer(ctx context.Context, in *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	c, err := s.container(in.Ref)
	if err != nil {
		return nil, err
	}
	b, err := c.ReadFile(ctx, gwclient.ReadContainerRequest{ReadRequest: readRequest(in), MountIndex: int(in.MountIndex)})
	return &gwpb.ReadFileResponse{Data: b}, err
}

// ReadDirContainer implements gwpb.LLBBridgeServer.
func (s *Session) ReadDirContainer(ctx context.Context, in *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	c, err := s.container(in.Ref)
	if err != nil {
		return nil, err
	}
	es, err := c.ReadDir(ctx, gwclient.ReadDirContainerRequest{
		ReadDirRequest: gwclient.ReadDirRequest{Path: in.DirPath, IncludePattern: in.IncludePattern}, MountIndex: int(in.MountIndex),
	})
	return &gwpb.ReadDirResponse{Entries: es}, err
}

// StatFileContainer implements gwpb.LLBBridgeServer.
func (s *Session) StatFileContainer(ctx context.Context, in *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	c, err := s.container(in.Ref)
	if err != nil {
		return nil, err
	}
	st, err := c.StatFile(ctx, gwclient.StatContainerRequest{StatRequest: gwclient.StatRequest{Path: in.Path}, MountIndex: int(in.MountIndex)})
	return &gwpb.StatFileResponse{Stat: st}, err
}
