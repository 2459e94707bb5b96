package bridge

import (
	"strings"

	"github.com/buildd/buildd/builder/attest"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// Apart returns a view of the same build that nothing is recorded of, for what
// the daemon itself adds to a result.
func (c *Client) Apart() *Client {
	apart := *c
	apart.call = c.call.Apart()
	return &apart
}

// refs are the references of a result that are of a build.
func refs(res *gwclient.Result) []attest.Ref {
	if res == nil {
		return nil
	}
	var out []attest.Ref
	_ = res.EachRef(func(r gwclient.Reference) error { // which returns no error
		if r, ok := r.(*Ref); ok {
			out = append(out, r)
		}
		return nil
	})
	return out
}

// lookedUp is an image of which a frontend was told the digest.
func lookedUp(res *sourceresolver.MetaResponse, o sourceresolver.Opt) attest.Image {
	scheme, ref, _ := strings.Cut(res.Op.Identifier, "://")
	i := attest.Image{Ref: ref, Digest: res.Image.Digest, Layout: scheme == "oci-layout"}
	switch {
	case o.ImageOpt != nil && o.ImageOpt.Platform != nil:
		i.Platform = o.ImageOpt.Platform
	case o.OCILayoutOpt != nil:
		i.Platform = o.OCILayoutOpt.Platform
	}
	return i
}
