package connect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// What the daemon may send ahead of being read, fixed as in the daemon.
	streamWindow, connWindow = 1 << 20, 2 << 20
	// socketBuffer is how much is read from or written to a connection at once.
	socketBuffer = 128 << 10
)

// Options say which daemon is meant and how it is reached.
type Options struct {
	Addr       string
	Root       string
	ServerName string
	CACert     string
	Cert       string
	Key        string
	TLSDir     string
	// Timeout is how many seconds a connection may take; 0 is no bound.
	Timeout int
	Wait    bool
}

// Register adds the flags to set.
func (o *Options) Register(set *pflag.FlagSet) {
	set.StringVar(&o.Addr, "addr", "", "daemon's `address`: unix://PATH, tcp://HOST:PORT, ssh://HOST, docker-container://NAME, podman-container://NAME, "+
		"kube-pod://POD (default: $BUILDKIT_HOST, else a daemon on its default socket, else one that is started for this command)")
	set.StringVar(&o.Root, "root", DefaultRoot(), "state `directory` of the daemon that is started where none listens")
	set.StringVar(&o.ServerName, "tlsservername", "", "`name` that the daemon's certificate must have (default: the address's host)")
	set.StringVar(&o.CACert, "tlscacert", "", "CA `file` that the daemon's certificate is checked with")
	set.StringVar(&o.Cert, "tlscert", "", "client certificate `file`")
	set.StringVar(&o.Key, "tlskey", "", "client key `file`")
	set.StringVar(&o.TLSDir, "tlsdir", "", "`directory` with ca.pem, cert.pem and key.pem, or ca.crt, tls.crt and tls.key")
	set.IntVar(&o.Timeout, "timeout", 5, "`seconds` that connecting to the daemon may take; 0 is no bound")
	set.BoolVar(&o.Wait, "wait", false, "wait until the daemon answers, for as long as --timeout allows")
}

// Conn is a connection to a daemon.
type Conn struct {
	*client.Client
	// Addr is where the daemon listens.
	Addr string

	cc   *grpc.ClientConn
	held *lifeline
	lend *filesyncv1.Handlers
}

// GRPC returns the connection for services that BuildKit's client does not know.
func (c *Conn) GRPC() grpc.ClientConnInterface { return c.cc }

// Lend makes the session of the build that follows lend the daemon streams for
// what h answers.
func (c *Conn) Lend(h filesyncv1.Handlers) { c.lend = &h }

// session opens the connection that a session is served on. The daemon that sees
// the session has the streams that it lends.
func (c *Conn) session(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
	var loan *filesyncv1.Loan
	if id := http.Header(meta).Get("X-Docker-Expose-Session-Uuid"); c.lend != nil && id != "" {
		var err error
		if loan, err = filesyncv1.Lend(ctx, c.cc, id, *c.lend); err != nil && status.Code(err) != codes.Unimplemented {
			return nil, err
		}
	}
	conn, err := grpchijack.Dialer(c.ControlClient())(ctx, proto, meta)
	if err != nil {
		if loan != nil {
			loan.End()
		}
		return nil, err
	}
	return newGatherConn(conn, loan), nil
}

// Close ends the connection, and with it a daemon that was started for it, for
// whose end it waits.
func (c *Conn) Close() error {
	err := c.Client.Close()
	if c.held != nil {
		c.held.release()
	}
	return err
}

// Dial connects to the daemon and makes sure that it answers.
func (o Options) Dial(ctx context.Context) (*Conn, error) {
	if addr := cmp.Or(o.Addr, os.Getenv("BUILDKIT_HOST")); addr != "" {
		return o.dial(ctx, addr)
	}
	for _, addr := range defaultAddresses() {
		if listens(addr) {
			return o.dial(ctx, addr)
		}
	}
	held, err := startDaemon(ctx, o.Root)
	if err != nil {
		return nil, err
	}
	c, err := o.dial(ctx, held.addr)
	if err != nil {
		held.release()
		return nil, err
	}
	c.held = held
	return c, nil
}

func (o Options) dial(ctx context.Context, addr string) (*Conn, error) {
	opts, err := o.tls(addr)
	if err != nil {
		return nil, err
	}
	conn := &Conn{Addr: addr}
	var once sync.Once
	// The interceptor is the way to the connection beneath BuildKit's client.
	opts = append(opts, client.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, o ...grpc.CallOption) error {
			once.Do(func() { conn.cc = cc })
			return call(ctx, method, req, reply, cc, o...)
		})))
	for _, o := range []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(socketBuffer), grpc.WithWriteBufferSize(socketBuffer),
	} {
		opts = append(opts, client.WithGRPCDialOption(o))
	}
	opts = append(opts, client.WithSessionDialer(conn.session))
	if o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(o.Timeout)*time.Second)
		defer cancel()
	}
	if conn.Client, err = client.New(ctx, addr, opts...); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	if err := conn.probe(ctx, o.Wait); err != nil {
		conn.Client.Close()
		return nil, err
	}
	return conn, nil
}

// probe makes the first call, which is where a connection fails.
func (c *Conn) probe(ctx context.Context, wait bool) error {
	var err error
	if wait {
		err = c.Client.Wait(ctx)
	} else {
		_, err = c.ControlClient().Info(ctx, &control.InfoRequest{})
	}
	switch code := status.Code(err); {
	case code == codes.OK, code == codes.Unimplemented:
		return nil
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded:
		return fmt.Errorf("connect to %s: no answer in time: is a daemon listening there? (see --timeout and --wait)", c.Addr)
	case code == codes.Unavailable:
		return fmt.Errorf("connect to %s: %w: is a daemon listening there, and with the TLS that the --tls flags say?", c.Addr, err)
	default:
		return fmt.Errorf("connect to %s: %w", c.Addr, err)
	}
}

func (o Options) tls(addr string) ([]client.ClientOpt, error) {
	ca, cert, key := o.CACert, o.Cert, o.Key
	if o.TLSDir != "" {
		if ca+cert+key != "" {
			return nil, errors.New("--tlsdir is given with --tlscacert, --tlscert or --tlskey: want either the directory or the files")
		}
		for _, f := range []struct {
			to    *string
			names [2]string
		}{{&ca, [2]string{"ca.pem", "ca.crt"}}, {&cert, [2]string{"cert.pem", "tls.crt"}}, {&key, [2]string{"key.pem", "tls.key"}}} {
			path, err := firstFile(o.TLSDir, f.names)
			if err != nil {
				return nil, err
			}
			*f.to = path
		}
	}
	if (cert == "") != (key == "") {
		return nil, fmt.Errorf("--tlscert %q with --tlskey %q: want both or neither", cert, key)
	}
	var opts []client.ClientOpt
	if ca != "" {
		name := o.ServerName
		if name == "" {
			u, err := url.Parse(addr)
			if err != nil {
				return nil, fmt.Errorf("address %q: %w", addr, err)
			}
			name = u.Hostname()
		}
		opts = append(opts, client.WithServerConfig(name, ca))
	}
	if cert != "" {
		opts = append(opts, client.WithCredentials(cert, key))
	}
	return opts, nil
}

func firstFile(dir string, names [2]string) (string, error) {
	for _, n := range names {
		p := filepath.Join(dir, n)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("--tlsdir: %w", err)
		}
	}
	return "", fmt.Errorf("--tlsdir %s: has neither %s nor %s", dir, names[0], names[1])
}
