package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/progress"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/moby/buildkit/client"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/spf13/cobra"
)

// New returns the command that holds the others.
func New(connection *connect.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Aliases: []string{"images"}, Short: "The daemon's own image store",
		Long: "The daemon's own image store holds what builds leave under a name (-t) and what is\nimported or loaded. A FROM finds an image there before it asks a registry.",
	}
	cmd.AddCommand(importCommand(connection), loadCommand(connection), saveCommand(connection), list(connection), inspect(connection), remove(connection))
	return cmd
}

// with runs f on a connection to the daemon.
func with(ctx context.Context, connection *connect.Options, f func(*connect.Conn) error) error {
	conn, err := connection.Dial(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close())
}

// fullName returns the full form of an image's name.
func fullName(s string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("%q: %w: want NAME[:TAG], in lower case", s, err)
	}
	return reference.TagNameOnly(ref).String(), nil
}

// solve runs a build that f describes and shows it.
func solve(ctx context.Context, c *connect.Conn, mode string, opt client.SolveOpt, f gwclient.BuildFunc) (*client.SolveResponse, error) {
	opt.Session = append(opt.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(config.LoadDefaultConfigFile(os.Stderr)),
	}))
	if opt.FrontendAttrs == nil {
		opt.FrontendAttrs = map[string]string{}
	}
	var res *client.SolveResponse
	err := progress.Run(mode, func(d *progress.Display) (err error) {
		res, err = c.Build(ctx, opt, "buildctl", f, d.Feed())
		return err
	})
	return res, err
}

func progressFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "progress", "auto", "how progress is shown: `auto`, plain, tty, quiet or rawjson")
}
