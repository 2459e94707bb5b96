package gateway

import (
	"context"
	"encoding/json"
	"maps"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Solve implements gwpb.LLBBridgeServer.
func (s *Session) Solve(ctx context.Context, in *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	req := gwclient.SolveRequest{
		Evaluate: in.Evaluate, Definition: in.Definition, Frontend: in.Frontend, FrontendOpt: in.FrontendOpt,
		FrontendInputs: in.FrontendInputs, SourcePolicies: in.SourcePolicies,
	}
	for _, e := range in.CacheImports {
		if e == nil {
			return nil, status.Error(codes.InvalidArgument, "a cache import is empty")
		}
		req.CacheImports = append(req.CacheImports, gwclient.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	res, err := s.client.Solve(ctx, req)
	if err != nil {
		return nil, err
	}
	out, err := s.toPB(res, in.AllowResultArrayRef)
	if err != nil {
		return nil, err
	}
	resp := &gwpb.SolveResponse{Result: out}
	if !in.AllowResultReturn {
		if len(res.Refs) > 0 {
			return nil, status.Error(codes.InvalidArgument, "the result has a reference per platform, which this client does not take")
		}
		resp.Ref = out.GetRefDeprecated()
	}
	if in.Final { // clients of BuildKit before 0.4 return this way
		meta := map[string][]byte{}
		if err := json.Unmarshal(in.ExporterAttr, &meta); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "read exporter attributes: %v", err)
		}
		maps.Copy(meta, res.Metadata)
		s.finish(&gwclient.Result{Ref: res.Ref, Metadata: meta}, nil)
	}
	return resp, nil
}

func (s *Session) toPB(res *gwclient.Result, arrayRef bool) (*gwpb.Result, error) {
	out := &gwpb.Result{Metadata: res.Metadata}
	switch {
	case res.Refs != nil:
		refs, ids := map[string]*gwpb.Ref{}, map[string]string{}
		for k, r := range res.Refs {
			refs[k] = s.keep(r)
			ids[k] = refs[k].Id
		}
		if arrayRef {
			out.Result = &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: refs}}
		} else {
			out.Result = &gwpb.Result_RefsDeprecated{RefsDeprecated: &gwpb.RefMapDeprecated{Refs: ids}}
		}
	case arrayRef:
		out.Result = &gwpb.Result_Ref{Ref: s.keep(res.Ref)}
	default:
		out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: s.keep(res.Ref).Id}
	}
	for k, as := range res.Attestations {
		for _, a := range as {
			pa, err := gwclient.AttestationToPB(&a)
			if err != nil {
				return nil, err
			}
			if a.Ref != nil {
				pa.Ref = s.keep(a.Ref)
			}
			if out.Attestations == nil {
				out.Attestations = map[string]*gwpb.Attestations{}
			}
			if out.Attestations[k] == nil {
				out.Attestations[k] = &gwpb.Attestations{}
			}
			out.Attestations[k].Attestation = append(out.Attestations[k].Attestation, pa)
		}
	}
	return out, nil
}

// Return implements gwpb.LLBBridgeServer.
func (s *Session) Return(_ context.Context, in *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	if e := in.Error; e != nil {
		s.finish(nil, grpcerrors.FromGRPC(status.ErrorProto(&spb.Status{Code: e.Code, Message: e.Message, Details: e.Details})))
		return &gwpb.ReturnResponse{}, nil
	}
	if in.Result == nil {
		return nil, status.Error(codes.InvalidArgument, "a frontend returns a result or an error: this one returned neither")
	}
	res, err := s.fromPB(in.Result)
	if err != nil {
		return nil, err
	}
	s.finish(res, nil)
	return &gwpb.ReturnResponse{}, nil
}

func (s *Session) fromPB(in *gwpb.Result) (*gwclient.Result, error) {
	res := &gwclient.Result{Metadata: in.Metadata}
	one, many := "", map[string]string(nil)
	switch r := in.Result.(type) {
	case *gwpb.Result_RefDeprecated:
		one = r.RefDeprecated
	case *gwpb.Result_RefsDeprecated:
		many = r.RefsDeprecated.GetRefs()
	case *gwpb.Result_Ref:
		one = r.Ref.GetId()
	case *gwpb.Result_Refs:
		many = map[string]string{}
		for k, ref := range r.Refs.GetRefs() {
			many[k] = ref.GetId()
		}
	case nil:
	default:
		return nil, status.Errorf(codes.InvalidArgument, "a result of kind %T is not known", r)
	}
	ref, err := s.ref(one)
	if err != nil {
		return nil, err
	}
	if ref != nil {
		res.SetRef(ref)
	}
	for k, id := range many {
		ref, err := s.ref(id)
		if err != nil {
			return nil, err
		}
		res.AddRef(k, ref)
	}
	for k, as := range in.Attestations {
		for _, pa := range as.GetAttestation() {
			a, err := gwclient.AttestationFromPB[gwclient.Reference](pa)
			if err != nil {
				return nil, err
			}
			if a.Ref, err = s.ref(pa.Ref.GetId()); err != nil {
				return nil, err
			}
			res.AddAttestation(k, *a)
		}
	}
	return res, nil
}
