package gateway

import (
	"context"

	types "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ResolveImageConfig implements gwpb.LLBBridgeServer.
func (s *Session) ResolveImageConfig(ctx context.Context, in *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	o := sourceresolver.Opt{LogName: in.LogName, SourcePolicies: in.SourcePolicies}
	p := platform(in.Platform)
	switch sourceresolver.ResolverType(in.ResolverType) {
	case sourceresolver.ResolverTypeRegistry:
		o.ImageOpt = &sourceresolver.ResolveImageOpt{Platform: p, ResolveMode: in.ResolveMode}
	case sourceresolver.ResolverTypeOCILayout:
		o.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{
			Platform: p, Store: sourceresolver.ResolveImageConfigOptStore{SessionID: in.SessionID, StoreID: in.StoreID},
		}
	default:
		return nil, status.Errorf(codes.InvalidArgument, "resolver type %d is not known", in.ResolverType)
	}
	ref, d, cfg, err := s.client.ResolveImageConfig(ctx, in.Ref, o)
	if err != nil {
		return nil, err
	}
	return &gwpb.ResolveImageConfigResponse{Ref: ref, Digest: string(d), Config: cfg}, nil
}

// ResolveSourceMeta implements gwpb.LLBBridgeServer.
func (s *Session) ResolveSourceMeta(ctx context.Context, in *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	if in.Source == nil {
		return nil, status.Error(codes.InvalidArgument, "a source is required")
	}
	res, err := s.client.ResolveSourceMetadata(ctx, in.Source, resolveOpt(in))
	if err != nil {
		return nil, err
	}
	out := &gwpb.ResolveSourceMetaResponse{Source: res.Op}
	if i := res.Image; i != nil {
		out.Image = &gwpb.ResolveSourceImageResponse{Digest: string(i.Digest), Config: i.Config, AttestationChain: chain(i.AttestationChain)}
	}
	if g := res.Git; g != nil {
		out.Git = &gwpb.ResolveSourceGitResponse{
			Checksum: g.Checksum, Ref: g.Ref, CommitChecksum: g.CommitChecksum, CommitObject: g.CommitObject, TagObject: g.TagObject,
		}
	}
	if h := res.HTTP; h != nil {
		out.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: string(h.Digest), Filename: h.Filename}
		if h.LastModified != nil {
			out.HTTP.LastModified = timestamppb.New(*h.LastModified)
		}
		if c := h.ChecksumResponse; c != nil {
			out.HTTP.ChecksumResponse = &gwpb.ChecksumResponse{Digest: c.Digest, Suffix: c.Suffix}
		}
	}
	return out, nil
}

func resolveOpt(in *gwpb.ResolveSourceMetaRequest) sourceresolver.Opt {
	p := platform(in.Platform)
	o := sourceresolver.Opt{
		LogName: in.LogName, SourcePolicies: in.SourcePolicies,
		ImageOpt:     &sourceresolver.ResolveImageOpt{Platform: p, ResolveMode: in.ResolveMode},
		OCILayoutOpt: &sourceresolver.ResolveOCILayoutOpt{Platform: p},
	}
	if i := in.Image; i != nil {
		o.ImageOpt.NoConfig, o.ImageOpt.AttestationChain, o.ImageOpt.ResolveAttestations = i.NoConfig, i.AttestationChain, i.ResolveAttestations
	}
	if g := in.Git; g != nil {
		o.GitOpt = &sourceresolver.ResolveGitOpt{ReturnObject: g.ReturnObject}
	}
	if c := in.HTTP.GetChecksumRequest(); c != nil {
		o.HTTPOpt = &sourceresolver.ResolveHTTPOpt{ChecksumReq: &sourceresolver.ResolveHTTPChecksumRequest{
			Algo: sourceresolver.ResolveHTTPChecksumAlgo(c.Algo), Suffix: c.Suffix,
		}}
	}
	return o
}

func chain(c *sourceresolver.AttestationChain) *gwpb.AttestationChain {
	if c == nil {
		return nil
	}
	out := &gwpb.AttestationChain{
		Root: string(c.Root), ImageManifest: string(c.ImageManifest), AttestationManifest: string(c.AttestationManifest),
		Blobs: map[string]*gwpb.Blob{},
	}
	for _, d := range c.SignatureManifests {
		out.SignatureManifests = append(out.SignatureManifests, string(d))
	}
	for d, b := range c.Blobs {
		out.Blobs[string(d)] = &gwpb.Blob{Data: b.Data, Descriptor_: &gwpb.Descriptor{
			MediaType: b.Descriptor.MediaType, Digest: string(b.Descriptor.Digest), Size: b.Descriptor.Size, Annotations: b.Descriptor.Annotations,
		}}
	}
	return out
}

func platform(p *pb.Platform) *ocispecs.Platform {
	if p == nil {
		return nil
	}
	return &ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

func workers(ws []gwclient.WorkerInfo) []*types.WorkerRecord {
	out := make([]*types.WorkerRecord, 0, len(ws))
	for _, w := range ws {
		out = append(out, &types.WorkerRecord{ID: w.ID, Labels: w.Labels, Platforms: pb.PlatformsFromSpec(w.Platforms)})
	}
	return out
}
