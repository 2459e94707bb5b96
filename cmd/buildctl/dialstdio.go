package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/spf13/cobra"
)

// dialStdio joins standard input and output to the daemon's socket, for clients
// that reach this machine by ssh or a container's exec.
func dialStdio(connection *connect.Options) *cobra.Command {
	return &cobra.Command{
		Use: "dial-stdio", Hidden: true, Short: "Join standard input and output to the daemon's socket", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			conn, err := connection.Dial(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, conn.Close()) }()
			path, ok := strings.CutPrefix(conn.Addr, "unix://")
			if !ok {
				return fmt.Errorf("--addr %q: want unix://PATH", conn.Addr)
			}
			return joinStdio(cmd.Context(), path)
		},
	}
}

func joinStdio(ctx context.Context, path string) error {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	go func() { // ends with the input or the program
		_, _ = io.Copy(c, os.Stdin)
		_ = c.CloseWrite()
	}()
	if _, err := io.Copy(os.Stdout, c); err != nil {
		return fmt.Errorf("copy from daemon: %w", err)
	}
	return nil
}
