package debug

import (
	"fmt"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	"github.com/spf13/cobra"
)

func info(connection *connect.Options) *cobra.Command {
	var form format.Flag
	cmd := &cobra.Command{Use: "info", Short: "Show the daemon's version", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := form.Template()
		if err != nil {
			return err
		}
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			v, err := c.Info(cmd.Context())
			if err != nil {
				return err
			}
			if t != nil {
				return t.Print(cmd.OutOrStdout(), v)
			}
			tw := format.Table(cmd.OutOrStdout())
			b := v.BuildkitVersion
			fmt.Fprintf(tw, "BuildKit:\t%s %s %s\n", b.Package, b.Version, b.Revision)
			if b.DockerfileVersion != "" {
				fmt.Fprintf(tw, "Dockerfile:\t%s\n", b.DockerfileVersion)
			}
			return tw.Flush()
		})
	}
	form.Register(cmd.Flags())
	return cmd
}
