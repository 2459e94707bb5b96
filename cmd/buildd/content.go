package main

import (
	"context"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// registerContent serves blobs for reading: clients fetch what build records
// point to, such as logs and attestations.
func registerContent(s *server, blobs content.Store) {
	contentapi.RegisterContentServer(s, contentserver.New(readOnly{blobs}))
}

// readOnly refuses all that would change a content store.
type readOnly struct{ content.Store }

func (readOnly) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errReadOnly
}
func (readOnly) Delete(context.Context, digest.Digest) error { return errReadOnly }
func (readOnly) Abort(context.Context, string) error         { return errReadOnly }
func (readOnly) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errReadOnly
}

var errReadOnly = errdefs.ErrFailedPrecondition.WithMessage("the daemon's blobs can only be read")
