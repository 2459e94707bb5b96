// Command buildctl builds images on a build daemon: buildd, or any other that
// speaks BuildKit's protocol. Where none listens it starts buildd for the time
// of the command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	buildinfo "runtime/debug"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/build"
	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/debug"
	"github.com/buildd/buildd/cmd/buildctl/image"
	"github.com/buildd/buildd/cmd/buildctl/progress"
	"github.com/buildd/buildd/cmd/buildctl/usage"
	"github.com/buildd/buildd/cmd/buildctl/why"
	"github.com/buildd/buildd/proto/buffers"
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/nerdctlcontainer"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// interrupted is the exit code of a command that the user broke off, as shells
// have it.
const interrupted = 130

func main() {
	if os.Getenv("GOGC") == "" {
		buildinfo.SetGCPercent(400) // a short life, most of it spent on passing bytes on
	}
	buffers.Use()
	logrus.SetFormatter(messages{})
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx))
}

func run(ctx context.Context) int {
	// What libraries print on their own is of use to who works on them.
	log.SetOutput(io.Discard)
	var verbose bool
	err := command(&verbose).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if x, ok := errors.AsType[*build.ExitError](err); ok {
		return x.Code
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "error: canceled")
		return interrupted
	}
	progress.PrintError(os.Stderr, err, verbose)
	return 1
}

func command(verbose *bool) *cobra.Command {
	connection := &connect.Options{}
	cmd := &cobra.Command{
		Use: "buildctl", Short: "Build images from Dockerfiles", Version: version(),
		Long: "buildctl builds images on buildd, or on any daemon that speaks BuildKit's protocol.\n\n" +
			"The daemon is the one that --addr or $BUILDKIT_HOST names, else one that listens on its\n" +
			"default socket. Where there is none, buildctl starts buildd for the time of the command.",
		SilenceUsage: true, SilenceErrors: true,
	}
	connection.Register(cmd.PersistentFlags())
	cmd.PersistentFlags().BoolVarP(verbose, "debug", "D", false, "show details of warnings and errors")
	cmd.AddCommand(
		build.New(connection, verbose), why.New(connection), usage.Du(connection), usage.Prune(connection), usage.PruneHistories(connection),
		image.New(connection), debug.New(connection), dialStdio(connection),
		superviseCommand(),
	)
	return cmd
}

// superviseCommand is what buildctl runs itself as beside a daemon that it
// starts.
func superviseCommand() *cobra.Command {
	var daemon string
	cmd := &cobra.Command{
		Use: connect.SuperviseCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return connect.Supervise(cmd.Flag("root").Value.String(), daemon)
		},
	}
	cmd.Flags().StringVar(&daemon, "daemon", "", "program to run")
	return cmd
}

func version() string {
	b, ok := buildinfo.ReadBuildInfo()
	if !ok || b.Main.Version == "" {
		return "devel"
	}
	return b.Main.Version
}

// messages writes what the libraries log as the program's own messages.
type messages struct{}

func (messages) Format(e *logrus.Entry) ([]byte, error) {
	if strings.Contains(e.Message, "fsverity") { // a file system without it is as good
		return nil, nil
	}
	text := e.Level.String() + ": " + e.Message
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		text += fmt.Sprintf(": %v", err)
	}
	return []byte(text + "\n"), nil
}
