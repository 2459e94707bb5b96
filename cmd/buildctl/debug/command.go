package debug

import (
	"context"
	"errors"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/spf13/cobra"
)

// New returns the command that holds the others.
func New(connection *connect.Options) *cobra.Command {
	cmd := &cobra.Command{Use: "debug", Short: "Look into the daemon"}
	cmd.AddCommand(workers(connection), info(connection), histories(connection), logs(connection), get(connection),
		ctl(connection), monitor(connection), dumpLLB())
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
