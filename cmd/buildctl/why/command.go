package why

import (
	"context"
	"errors"
	"fmt"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// New returns the command.
func New(connection *connect.Options) *cobra.Command {
	var form format.Flag
	cmd := &cobra.Command{
		Use: "why [BUILD|latest] [STEP]", Short: "Show why the steps of a build ran", Args: cobra.MaximumNArgs(2),
		Long: "Show why the steps of a build ran: what differs from the build of the same thing before it.\n\n" +
			"BUILD is a build's reference, as \"buildctl debug histories\" lists them, or the beginning of\n" +
			"one; without it, the latest build that has ended. STEP is the number that progress shows\n" +
			"(7), a place in the Dockerfile (2/4, \"build 2/4\"), or any part of the step's name.",
		Example: "  buildctl why\n  buildctl why latest 2/4\n  buildctl why latest 'RUN make'\n  buildctl why 3xk9 --format json",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		t, err := form.Template()
		if err != nil {
			return err
		}
		conn, err := connection.Dial(cmd.Context())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		b, err := ask(cmd.Context(), conn, args)
		if err != nil {
			return err
		}
		if t != nil {
			return t.Print(cmd.OutOrStdout(), b)
		}
		return b.print(cmd.OutOrStdout(), len(args) > 1)
	}
	form.Register(cmd.Flags())
	return cmd
}

func ask(ctx context.Context, c *connect.Conn, args []string) (Build, error) {
	req := &explainv1.WhyRequest{}
	if len(args) > 0 {
		req.Build = args[0]
	}
	if len(args) > 1 {
		req.Step = args[1]
	}
	resp, err := explainv1.NewExplainClient(c.GRPC()).Why(ctx, req)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return Build{}, fmt.Errorf("the daemon at %s does not say why steps run: it is not buildd, or an older one", c.Addr)
	case status.Code(err) == codes.NotFound && len(args) == 1:
		return Build{}, fmt.Errorf("%w (a step of the latest build is: buildctl why latest %s)", err, args[0])
	case err != nil:
		return Build{}, err
	}
	return build(resp), nil
}
