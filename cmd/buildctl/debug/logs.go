package debug

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/progress"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func logs(connection *connect.Options) *cobra.Command {
	var mode string
	var trace bool
	cmd := &cobra.Command{Use: "logs REF", Short: "Show the log of a build", Args: cobra.ExactArgs(1)}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			if trace {
				return printTrace(cmd.Context(), c, cmd.OutOrStdout(), args[0])
			}
			return replay(cmd.Context(), c, mode, args[0])
		})
	}
	cmd.Flags().StringVar(&mode, "progress", "auto", "how it is shown: `auto`, plain, tty or rawjson")
	cmd.Flags().BoolVar(&trace, "trace", false, "print the build's OpenTelemetry trace instead")
	return cmd
}

// replay shows a build as it went.
func replay(ctx context.Context, c *connect.Conn, mode, ref string) error {
	stream, err := c.ControlClient().Status(ctx, &control.StatusRequest{Ref: ref})
	if err != nil {
		return err
	}
	d, err := progress.NewOnStdout(mode)
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			_, closeErr := d.Close()
			if errors.Is(err, io.EOF) {
				return closeErr
			}
			return err
		}
		d.Send(client.NewSolveStatus(resp))
	}
}

func printTrace(ctx context.Context, c *connect.Conn, w io.Writer, ref string) error {
	var trace *control.Descriptor
	found := false
	err := events(ctx, c, &control.BuildHistoryRequest{Ref: ref, EarlyExit: true}, func(ev *control.BuildHistoryEvent) error {
		trace, found = ev.Record.GetTrace(), true
		return nil
	})
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("no record of a build %s: see buildctl debug histories", ref)
	case trace == nil:
		return fmt.Errorf("the record of build %s has no trace", ref)
	}
	return printBlob(ctx, c, w, ocispecs.Descriptor{MediaType: trace.MediaType, Digest: digest.Digest(trace.Digest), Size: trace.Size})
}

func get(connection *connect.Options) *cobra.Command {
	return &cobra.Command{
		Use: "get DIGEST", Short: "Print a blob of the daemon's content store", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := digest.Parse(args[0])
			if err != nil {
				return fmt.Errorf("%q: %w: want ALGORITHM:HEX, such as sha256:...", args[0], err)
			}
			return with(cmd.Context(), connection, func(c *connect.Conn) error {
				return printBlob(cmd.Context(), c, cmd.OutOrStdout(), ocispecs.Descriptor{Digest: d})
			})
		},
	}
}

func printBlob(ctx context.Context, c *connect.Conn, w io.Writer, desc ocispecs.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("blob %q: %w", desc.Digest, err)
	}
	r, err := proxy.NewContentStore(c.ContentClient()).ReaderAt(ctx, desc)
	if err != nil {
		return fmt.Errorf("get blob %s: %w", desc.Digest, err)
	}
	defer r.Close()
	_, err = io.CopyBuffer(w, content.NewReader(r), make([]byte, 1<<20))
	return err
}
