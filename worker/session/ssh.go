package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// SSH says which agent to forward and who may use it.
type SSH struct {
	// ID names the agent as in --ssh ID; "" is "default".
	ID string
	// Dir is where the socket's own directory is made; "" is os.TempDir. Socket
	// paths are limited to 107 bytes.
	Dir      string
	UID, GID int
	Mode     fs.FileMode
}

// Agent is a unix socket that leads to a client's ssh agent.
type Agent struct {
	// Path is the socket.
	Path string

	cancel context.CancelFunc
	l      net.Listener
	conns  sync.WaitGroup
}

// Close ends the socket and all connections through it.
func (a *Agent) Close() error {
	a.cancel()
	err := a.l.Close()
	if errors.Is(err, net.ErrClosed) { // the end of the context was faster
		err = nil
	}
	a.conns.Wait()
	return errors.Join(err, os.RemoveAll(filepath.Dir(a.Path)))
}

// MountSSH opens a socket that leads to a client's agent. It stays open until
// Close or the end of ctx. An agent that no client has is ErrNotFound.
func MountSSH(ctx context.Context, c Client, o SSH) (*Agent, error) {
	if o.ID == "" {
		o.ID = sshforward.DefaultID
	}
	caller, err := Pick(ctx, c, "", func(ctx context.Context, caller bksession.Caller) error {
		return sshforward.CheckSSHID(ctx, caller, o.ID)
	})
	if err != nil {
		return nil, fmt.Errorf("ssh agent %q %w: pass --ssh %s[=SOCKET|KEYFILE] (%w)", o.ID, ErrNotFound, o.ID, withoutCode(err))
	}
	l, path, err := o.listen()
	if err != nil {
		return nil, fmt.Errorf("open ssh agent socket for %q: %w", o.ID, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &Agent{Path: path, cancel: cancel, l: l}
	a.conns.Go(func() { a.serve(ctx, caller, o.ID) })
	return a, nil
}

func (o SSH) listen() (net.Listener, string, error) {
	dir, err := os.MkdirTemp(o.Dir, "ssh-")
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o711), os.Chown(path, o.UID, o.GID), os.Chmod(path, o.Mode))
		if err == nil {
			return l, path, nil
		}
		l.Close()
	}
	return nil, "", errors.Join(err, os.RemoveAll(dir))
}

// serve accepts until the listener is closed or ctx ends.
func (a *Agent) serve(ctx context.Context, caller bksession.Caller, id string) {
	stop := context.AfterFunc(ctx, func() { a.l.Close() })
	defer stop()
	for {
		conn, err := a.l.Accept()
		if err != nil {
			return
		}
		a.conns.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			// Nobody is there to be told: the program at the other end of the socket
			// sees the connection end.
			_ = forward(ctx, caller, id, conn)
		})
	}
}

func forward(ctx context.Context, caller bksession.Caller, id string, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = metadata.NewOutgoingContext(caller.Context(ctx), metadata.Pairs(sshforward.KeySSHID, id))
	stream, err := sshforward.NewSSHClient(caller.Conn()).ForwardAgent(ctx)
	if err != nil {
		return err
	}
	return sshforward.Copy(ctx, conn, stream, stream.CloseSend)
}

// withoutCode makes "Unimplemented" of a client without any agent readable.
func withoutCode(err error) error {
	if grpcerrors.Code(err) == codes.Unimplemented {
		return errors.New("the client forwards no agent")
	}
	return err
}
