package frontend

import (
	"context"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// Frontend builds one request.
//
// The options of the request are in c.BuildOpts().Opts and must be treated as read-only; definitions that the client sends
// along are in c.Inputs. Build is called once per request and may call every method of c concurrently. It returns when the
// references in its result may be solved; they may still be lazy, so an error of a step can also appear later, when an exporter
// evaluates them. Metadata keys of the result are those of BuildKit's exptypes packages. An error that the user's input caused
// carries its position as an errdefs.Source.
type Frontend interface {
	Build(ctx context.Context, c gwclient.Client) (*gwclient.Result, error)
}
