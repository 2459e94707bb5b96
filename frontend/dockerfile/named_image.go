package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

const (
	schemeImage  = "docker-image://"
	schemeLayout = "oci-layout://"
	scratch      = "scratch"
)

// image is an image of a registry or of the daemon's store.
func (n *namedContext) image(ctx context.Context, ref string) (st *llb.State, img *dockerspec.DockerOCIImage, other string, err error) {
	if ref == scratch {
		st := llb.Scratch()
		return &st, nil, "", nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, nil, "", fmt.Errorf("image %q: %w", ref, err)
	}
	op := &pb.SourceOp{Identifier: schemeImage + reference.TagNameOnly(named).String()}
	meta, err := n.sources.ResolveSourceMetadata(ctx, op, sourceresolver.Opt{
		LogName:  fmt.Sprintf("[context %s] load metadata for %s", n.key, ref),
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: n.want.Platform, ResolveMode: n.want.ResolveMode.String()},
	})
	if err != nil {
		return nil, nil, "", err
	}
	if meta.Image == nil {
		return nil, nil, meta.Op.GetIdentifier(), nil
	}
	opts := []llb.ImageOption{n.vertexName(ref), n.want.ResolveMode}
	for _, o := range platformOption(n.want.Platform) {
		opts = append(opts, o)
	}
	st, img, err = withConfig(llb.Image(strings.TrimPrefix(meta.Op.GetIdentifier(), schemeImage), opts...), meta.Image.Config)
	return st, img, "", err
}

// layout is an image in an OCI layout that the client offers; the name of ref is that of the layout, not of the image.
func (n *namedContext) layout(ctx context.Context, spec string) (*llb.State, *dockerspec.DockerOCIImage, error) {
	ref, err := reference.Parse(spec)
	if err != nil {
		return nil, nil, fmt.Errorf("oci-layout %q: %w", spec, err)
	}
	store, named := ref.(reference.Named)
	digested, hasDigest := ref.(reference.Digested)
	if !named || !hasDigest {
		return nil, nil, fmt.Errorf("oci-layout %q: want NAME@DIGEST", spec)
	}
	// The image goes by the name of the context, which says more than that of the layout.
	name, err := reference.ParseNormalizedNamed(n.name)
	if err != nil {
		return nil, nil, err
	}
	shown, err := reference.WithDigest(name, digested.Digest())
	if err != nil {
		return nil, nil, err
	}
	op := &pb.SourceOp{
		Identifier: schemeLayout + shown.String(),
		Attrs:      map[string]string{pb.AttrOCILayoutSessionID: n.SessionID, pb.AttrOCILayoutStoreID: store.Name()},
	}
	meta, err := n.sources.ResolveSourceMetadata(ctx, op, sourceresolver.Opt{
		LogName: fmt.Sprintf("[context %s] load metadata for %s", n.key, shown),
		OCILayoutOpt: &sourceresolver.ResolveOCILayoutOpt{
			Platform: n.want.Platform,
			Store:    sourceresolver.ResolveImageConfigOptStore{SessionID: n.SessionID, StoreID: store.Name()},
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if meta.Image == nil {
		return nil, nil, fmt.Errorf("oci-layout %q: source policy turns it into %s, which is no image", spec, meta.Op.GetIdentifier())
	}
	opts := []llb.OCILayoutOption{n.vertexName("OCI load from client"), llb.OCIStore(n.SessionID, store.Name())}
	for _, o := range platformOption(n.want.Platform) {
		opts = append(opts, o)
	}
	return withConfig(llb.OCILayout(shown.String(), opts...), meta.Image.Config)
}

// withConfig gives st the environment, user and directory of an image config, and returns the config itself, without the time
// of its making: the image that is built on it gets a time of its own.
func withConfig(st llb.State, config []byte) (*llb.State, *dockerspec.DockerOCIImage, error) {
	if len(config) == 0 {
		return nil, nil, errors.New("image has no config")
	}
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, nil, fmt.Errorf("parse image config: %w", err)
	}
	st, err := st.WithImageConfig(config)
	if err != nil {
		return nil, nil, err
	}
	img.Created = nil
	return &st, &img, nil
}
