package dockerfile

import (
	"context"
	"encoding/json"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// metaResolver asks for the metadata of each source once per build: several stages and platforms begin with the same image.
type metaResolver struct {
	client gwclient.Client
	memo   memo[*sourceresolver.MetaResponse]
}

func (r *metaResolver) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	name := o.LogName
	o.LogName = "" // does not change the answer
	key, err := json.Marshal(struct {
		ID    string
		Attrs map[string]string
		Opt   sourceresolver.Opt
	}{op.Identifier, op.Attrs, o})
	if err != nil {
		return nil, err
	}
	o.LogName = name
	return r.memo.do(ctx, string(key), func(ctx context.Context) (*sourceresolver.MetaResponse, error) {
		return r.client.ResolveSourceMetadata(ctx, op.CloneVT(), o)
	})
}
