// Command buildd is the build daemon. It takes the flags and the configuration
// file of buildkitd and speaks BuildKit's protocol.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/proto/buffers"
	"github.com/buildd/buildd/worker/runtime/native"
	"github.com/buildd/buildd/worker/userns"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func main() {
	native.Init() // does not return in the process that containers are forked from
	userns.Init() // nor this one in a process on its way into a user namespace
	buffers.Use()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if inside, ok := errors.AsType[*userns.ExitError](err); ok {
			os.Exit(inside.Code) // it has said why
		}
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var f config.Flags
	cmd := &cobra.Command{
		Use: "buildd", Short: "Build daemon for Dockerfiles", Version: version,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), &f) },
	}
	f.Register(cmd.Flags())
	cmd.AddCommand(workerCommand())
	return cmd
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, f *config.Flags) error {
	c, warnings, err := f.Config()
	if err != nil {
		return err
	}
	log := newLog(c)
	if userns.Needed() {
		return userns.Enter(log)
	}
	for _, w := range warnings {
		log.Warn(w)
	}
	srv, err := newServer(log, c.GRPC.TLS)
	if err != nil {
		return err
	}
	d, err := wire(ctx, log, c, f.Remote)
	if err != nil {
		return err
	}
	defer d.close()
	d.register(srv)
	return d.serve(ctx, srv, c)
}

// serve serves calls, with what runs beside them, until ctx ends.
func (d *daemon) serve(ctx context.Context, srv *server, c config.Config) error {
	eg, ctx := errgroup.WithContext(ctx)
	for _, run := range d.background {
		eg.Go(func() error { return run(ctx) })
	}
	eg.Go(func() error { return srv.run(ctx, d.log, c) })
	if err := eg.Wait(); !errors.Is(err, context.Canceled) { // which is how a daemon ends
		return err
	}
	return nil
}
