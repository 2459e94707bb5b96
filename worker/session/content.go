package session

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	bksession "github.com/moby/buildkit/session"
	bkcontent "github.com/moby/buildkit/session/content"
	"github.com/opencontainers/go-digest"
)

// OCIStore returns the content store that a client gives out as an OCI layout
// under the name store, if it has the blob dgst. sessionID chooses the client;
// "" takes the first that has the blob.
func OCIStore(ctx context.Context, c Client, sessionID, store string, dgst digest.Digest) (content.Store, error) {
	return ContentStore(ctx, c, sessionID, "oci:"+store, func(ctx context.Context, s content.Store) error {
		_, err := s.Info(ctx, dgst)
		return err
	})
}

// ContentStore returns the content store id of the first client, or of client
// sessionID, that passes check. Nothing that it answers is verified.
func ContentStore(ctx context.Context, c Client, sessionID, id string, check func(context.Context, content.Store) error) (content.Store, error) {
	caller, err := Pick(ctx, c, sessionID, func(ctx context.Context, caller bksession.Caller) error {
		return check(ctx, bkcontent.NewCallerStore(caller, id))
	})
	if err != nil {
		return nil, fmt.Errorf("ask client's content store %q: %w", id, err)
	}
	return bkcontent.NewCallerStore(caller, id), nil
}
