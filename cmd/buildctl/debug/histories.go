package debug

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

func histories(connection *connect.Options) *cobra.Command {
	var form format.Flag
	cmd := &cobra.Command{Use: "histories", Short: "List the records of builds", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := form.Template()
		if err != nil {
			return err
		}
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			w := cmd.OutOrStdout()
			tw := format.Table(w)
			if t == nil {
				fmt.Fprintln(tw, "TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION\tPINNED")
			}
			err := events(cmd.Context(), c, &control.BuildHistoryRequest{EarlyExit: true}, func(ev *control.BuildHistoryEvent) error {
				if t != nil {
					return t.Print(w, ev)
				}
				r, pinned := ev.Record, ""
				if r.GetPinned() {
					pinned = "*"
				}
				_, err := fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%s\n", ev.Type, r.GetRef(), local(r.GetCreatedAt()), local(r.GetCompletedAt()), r.GetGeneration(), pinned)
				return err
			})
			return errors.Join(err, tw.Flush())
		})
	}
	form.Register(cmd.Flags())
	return cmd
}

// events calls f for each event of the build history.
func events(ctx context.Context, c *connect.Conn, req *control.BuildHistoryRequest, f func(*control.BuildHistoryEvent) error) error {
	stream, err := c.ControlClient().ListenBuildHistory(ctx, req)
	if err != nil {
		return err
	}
	for {
		ev, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(ev); err != nil {
			return err
		}
	}
}

func local(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Local().Format(time.RFC3339)
}

func ctl(connection *connect.Options) *cobra.Command {
	var pin, unpin, remove bool
	cmd := &cobra.Command{Use: "ctl REF", Short: "Pin, unpin or remove the record of a build", Args: cobra.ExactArgs(1)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			_, err := c.ControlClient().UpdateBuildHistory(cmd.Context(), &control.UpdateBuildHistoryRequest{Ref: args[0], Pinned: pin, Delete: remove})
			return err
		})
	}
	cmd.Flags().BoolVar(&pin, "pin", false, "keep the record from garbage collection")
	cmd.Flags().BoolVar(&unpin, "unpin", false, "leave the record to garbage collection")
	cmd.Flags().BoolVar(&remove, "delete", false, "remove the record")
	cmd.MarkFlagsOneRequired("pin", "unpin", "delete")
	cmd.MarkFlagsMutuallyExclusive("pin", "unpin", "delete")
	return cmd
}

func monitor(connection *connect.Options) *cobra.Command {
	var completed bool
	var ref string
	cmd := &cobra.Command{Use: "monitor", Short: "Show builds as they begin and end", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			w := cmd.OutOrStdout()
			return events(cmd.Context(), c, &control.BuildHistoryRequest{ActiveOnly: !completed, Ref: ref}, func(ev *control.BuildHistoryEvent) error {
				return printEvent(w, ev)
			})
		})
	}
	cmd.Flags().BoolVar(&completed, "completed", false, "show builds that have ended too")
	cmd.Flags().StringVar(&ref, "ref", "", "`reference` of the one build to show")
	return cmd
}

func printEvent(w io.Writer, ev *control.BuildHistoryEvent) error {
	r := ev.Record
	fmt.Fprintf(w, "event: %s ref:%s\n", ev.Type, r.GetRef())
	if n := r.GetNumTotalSteps(); n != 0 {
		fmt.Fprintf(w, "  cache: %d/%d\n", r.GetNumCachedSteps(), n)
	}
	if n := r.GetNumWarnings(); n != 0 {
		fmt.Fprintf(w, "  warnings: %d\n", n)
	}
	for name, d := range map[string]*control.Descriptor{"logs": r.GetLogs(), "trace": r.GetTrace()} {
		if d != nil {
			fmt.Fprintf(w, "  %s: %s\n", name, d)
		}
	}
	printResult(w, "", r.GetResult())
	for id, res := range r.GetResults() {
		printResult(w, "["+id+"] ", res)
	}
	_, err := fmt.Fprintln(w)
	return err
}

func printResult(w io.Writer, prefix string, r *control.BuildResultInfo) {
	for _, d := range r.GetResults() {
		fmt.Fprintf(w, "  %sdescriptor: %s\n", prefix, d)
	}
	for _, d := range r.GetAttestations() {
		fmt.Fprintf(w, "  %sattestation: %s\n", prefix, d)
	}
}
