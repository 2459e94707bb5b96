package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/layout"
	"github.com/buildd/buildd/cmd/buildctl/option"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

type loadFlags struct {
	names, platforms []string
	mode             string
	quiet            bool
}

func loadCommand(connection *connect.Options) *cobra.Command {
	var f loadFlags
	cmd := &cobra.Command{
		Use: "load [flags] FILE", Short: "Take images from an archive or an OCI layout",
		Long: "Take images from an OCI archive, an archive of docker save, an OCI layout directory, or\n" +
			"- for an archive on standard input, with all their platforms. Layers and configurations\n" +
			"stay as they are; manifests are written anew, so that an image's digest may differ from\n" +
			"the one that it has in the archive. Attestations are left out.\n\n" +
			"The images have the names that the archive gives them, or those of --tag.",
		Example: "  buildctl image load image.tar\n  docker save alpine:3 | buildctl image load -\n  buildctl image load -t base:1 oci-layout/",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), connection, args[0]) },
	}
	cmd.Flags().StringArrayVarP(&f.names, "tag", "t", nil, "`name` for the image, instead of those that it has; for archives with one image")
	cmd.Flags().StringArrayVar(&f.platforms, "platform", nil, "`platform` to take, such as linux/arm64 (default: all that are there)")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print nothing but errors")
	progressFlag(cmd, &f.mode)
	return cmd
}

const (
	// loadStore is what the daemon knows the images' blobs by.
	loadStore = "load"
	// loadName stands where a reference wants a repository.
	loadName = "buildctl.invalid/load"
)

func (f *loadFlags) run(ctx context.Context, connection *connect.Options, from string) (err error) {
	store, index, done, err := openImages(ctx, from)
	if err != nil {
		return fmt.Errorf("load %s: %w", from, err)
	}
	defer func() { err = errors.Join(err, done()) }()
	found, err := f.find(ctx, store, index)
	if err != nil {
		return fmt.Errorf("load %s: %w", from, err)
	}
	if f.quiet {
		f.mode = "quiet"
	}
	return with(ctx, connection, func(c *connect.Conn) error {
		for _, img := range found {
			if err := f.load(ctx, c, store, img); err != nil {
				return fmt.Errorf("load %s: %w", strings.Join(img.names, ", "), err)
			}
		}
		return nil
	})
}

func (f *loadFlags) load(ctx context.Context, c *connect.Conn, store content.Store, img stored) error {
	opt := client.SolveOpt{
		OCIStores: map[string]content.Store{loadStore: store}, FrontendAttrs: wanted(img.manifests),
		Exports: []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": strings.Join(img.names, ",")}}},
	}
	res, err := solve(ctx, c, f.mode, opt, func(ctx context.Context, g gwclient.Client) (*gwclient.Result, error) {
		return assemble(ctx, g, img.manifests, func(m member) llb.State {
			return llb.OCILayout(loadName+"@"+m.desc.Digest.String(), llb.OCIStore(g.BuildOpts().SessionID, loadStore), llb.Platform(m.platform),
				llb.WithCustomNamef("[%s] load %s", platforms.Format(m.platform), img.names[0]))
		})
	})
	if err != nil {
		return err
	}
	if !f.quiet {
		for _, n := range img.names {
			fmt.Printf("%s@%s\n", n, res.ExporterResponse["containerimage.digest"])
		}
	}
	return nil
}

// openImages opens a layout, or an archive by way of a temporary layout that
// done removes.
func openImages(ctx context.Context, from string) (_ content.Store, index []ocispecs.Descriptor, done func() error, err error) {
	done = func() error { return nil }
	in := os.Stdin
	if from != "-" {
		fi, err := os.Stat(from)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("%w: want an archive, an OCI layout or -", err)
		}
		if fi.IsDir() {
			store, err := layout.Open(from)
			if err != nil {
				return nil, nil, nil, err
			}
			idx, err := store.Index()
			if err != nil {
				return nil, nil, nil, err
			}
			return store, idx.Manifests, done, nil
		}
		if in, err = os.Open(from); err != nil {
			return nil, nil, nil, err
		}
		defer in.Close()
	}
	dir, err := os.MkdirTemp("", "buildctl-load-")
	if err != nil {
		return nil, nil, nil, err
	}
	done = func() error { return os.RemoveAll(dir) }
	store, index, err := ingest(ctx, in, dir)
	if err != nil {
		return nil, nil, nil, errors.Join(err, done())
	}
	return store, index, done, nil
}

// ingest unpacks an archive of images into a layout in dir.
func ingest(ctx context.Context, in io.Reader, dir string) (content.Store, []ocispecs.Descriptor, error) {
	store, err := local.NewStore(dir)
	if err != nil {
		return nil, nil, err
	}
	plain, err := compression.DecompressStream(in)
	if err != nil {
		return nil, nil, err
	}
	defer plain.Close()
	desc, err := imagearchive.ImportIndex(ctx, store, plain)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: want an OCI archive or one of docker save", err)
	}
	b, err := content.ReadBlob(ctx, store, desc)
	if err != nil {
		return nil, nil, err
	}
	var idx ocispecs.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, nil, fmt.Errorf("read index: %w", err)
	}
	return store, idx.Manifests, nil
}

// stored is an image in a layout.
type stored struct {
	desc      ocispecs.Descriptor
	names     []string
	manifests []member
}

// find returns the images of a layout that are to be loaded.
func (f *loadFlags) find(ctx context.Context, store content.Store, index []ocispecs.Descriptor) ([]stored, error) {
	only, err := f.matcher()
	if err != nil {
		return nil, err
	}
	var out []stored
	for _, d := range index {
		name, err := nameOf(d)
		if err != nil {
			return nil, err
		}
		if i := indexOf(out, d); i >= 0 {
			out[i].names = append(out[i].names, name...)
			continue
		}
		img := stored{desc: d, names: name}
		if img.manifests, err = members(ctx, store, d, only); err != nil {
			return nil, err
		}
		if len(img.manifests) > 0 {
			out = append(out, img)
		}
	}
	switch {
	case len(out) == 0:
		return nil, errors.New("there is no image for these platforms")
	case len(f.names) > 0 && len(out) > 1:
		return nil, fmt.Errorf("--tag %s: there are %d images, which cannot share a name", f.names[0], len(out))
	}
	for i := range out {
		if len(f.names) > 0 {
			if out[i].names, err = option.Tags(f.names); err != nil {
				return nil, fmt.Errorf("--tag %w", err)
			}
		}
		if len(out[i].names) == 0 {
			return nil, fmt.Errorf("the image %s has no name: give it one with --tag", out[i].desc.Digest)
		}
	}
	return out, nil
}

func indexOf(in []stored, d ocispecs.Descriptor) int {
	for i, s := range in {
		if s.desc.Digest == d.Digest {
			return i
		}
	}
	return -1
}

// nameOf returns the full name that an index gives an image, if it gives one. A
// reference that is a tag only, as OCI layouts have it, is none.
func nameOf(d ocispecs.Descriptor) ([]string, error) {
	name := d.Annotations[images.AnnotationImageName]
	if ref := d.Annotations[ocispecs.AnnotationRefName]; name == "" && strings.ContainsAny(ref, "/:") {
		name = ref
	}
	if name == "" {
		return nil, nil
	}
	full, err := fullName(name)
	if err != nil {
		return nil, err
	}
	return []string{full}, nil
}

func (f *loadFlags) matcher() (platforms.MatchComparer, error) {
	if len(f.platforms) == 0 {
		return platforms.All, nil
	}
	list, err := option.Platforms(f.platforms)
	if err != nil {
		return nil, fmt.Errorf("--platform %w", err)
	}
	var ps []ocispecs.Platform
	for s := range strings.SplitSeq(list, ",") {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, err
		}
		ps = append(ps, platforms.Normalize(p))
	}
	return platforms.Any(ps...), nil
}
