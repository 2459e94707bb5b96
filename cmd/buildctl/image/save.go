package image

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/option"
	imagesv1 "github.com/buildd/buildd/proto/buildd/images/v1"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func saveCommand(connection *connect.Options) *cobra.Command {
	var kind, mode string
	cmd := &cobra.Command{
		Use: "save [flags] NAME[:TAG] FILE", Short: "Write an image of the store to an archive",
		Long: "Write an image of the store to an archive, or to standard output if FILE is -.\nAn OCI archive holds all its platforms, one of type docker the one of images with one.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != client.ExporterOCI && kind != client.ExporterDocker {
				return fmt.Errorf("--type %q: want oci or docker", kind)
			}
			return with(cmd.Context(), connection, func(c *connect.Conn) error {
				return save(cmd.Context(), c, args[0], "type="+kind+",dest="+args[1], mode)
			})
		},
	}
	cmd.Flags().StringVar(&kind, "type", client.ExporterOCI, "`form` of the archive: oci or docker")
	progressFlag(cmd, &mode)
	return cmd
}

func save(ctx context.Context, c *connect.Conn, name, output, mode string) error {
	got, err := service(c).Get(ctx, &imagesv1.GetRequest{Name: name})
	if err != nil {
		return explain(c, err)
	}
	var ms []member
	for _, m := range got.Manifests {
		if m.Platform == "" { // an attestation
			continue
		}
		d := ocispecs.Descriptor{Digest: digest.Digest(m.Target.Digest)}
		p, err := platformOf(d, m.Config)
		if err != nil {
			return err
		}
		ms = append(ms, member{desc: d, platform: p, config: m.Config})
	}
	if len(ms) == 0 {
		return fmt.Errorf("image %s holds nothing for any platform", got.Image.Name)
	}
	out, err := option.Outputs([]string{output}, false)
	if err != nil {
		return err
	}
	option.Name(out, []string{got.Image.Name})
	_, err = solve(ctx, c, mode, client.SolveOpt{Exports: out, FrontendAttrs: wanted(ms)}, func(ctx context.Context, g gwclient.Client) (*gwclient.Result, error) {
		return assemble(ctx, g, ms, func(m member) llb.State {
			return llb.Image(got.Image.Name, llb.Platform(m.platform), llb.WithCustomNamef("[%s] save %s", platforms.Format(m.platform), got.Image.Name))
		})
	})
	return err
}
