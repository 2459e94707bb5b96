package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// PruneHistories returns the command that removes records of builds.
func PruneHistories(connection *connect.Options) *cobra.Command {
	var form format.Flag
	cmd := &cobra.Command{
		Use: "prune-histories", Short: "Remove the records of builds, but for pinned ones", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return pruneHistories(cmd.Context(), connection, cmd.OutOrStdout(), form)
		},
	}
	form.Register(cmd.Flags())
	return cmd
}

func pruneHistories(ctx context.Context, connection *connect.Options, w io.Writer, form format.Flag) (err error) {
	t, err := form.Template()
	if err != nil {
		return err
	}
	conn, err := connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	c := conn.ControlClient()
	stream, err := c.ListenBuildHistory(ctx, &control.BuildHistoryRequest{EarlyExit: true})
	if err != nil {
		return err
	}
	tw := format.Table(w)
	if t == nil {
		fmt.Fprintln(tw, "TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION")
	}
	var errs []error
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.Join(append(errs, tw.Flush())...)
		}
		if err != nil {
			return err
		}
		r := ev.Record
		if r == nil || r.Pinned {
			continue
		}
		if _, err := c.UpdateBuildHistory(ctx, &control.UpdateBuildHistoryRequest{Ref: r.Ref, Delete: true}); err != nil {
			errs = append(errs, fmt.Errorf("remove record %s: %w", r.Ref, err))
			continue
		}
		if t != nil {
			if err := t.Print(w, ev); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\n", ev.Type, r.Ref, local(r.CreatedAt), local(r.CompletedAt), r.Generation)
	}
}

func local(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.RFC3339)
}
