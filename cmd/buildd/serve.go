package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/buildd/buildd/cmd/buildd/config"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

const (
	// maxMessage is what BuildKit's clients send at most in one gRPC message.
	maxMessage = 16 << 20
	// What a client may send ahead of being read: enough to stream a build context
	// through, and fixed, since gRPC would find out by a ping with each message.
	streamWindow, connWindow = 1 << 20, 2 << 20
	// socketBuffer is how much is read from or written to a connection at once.
	socketBuffer = 128 << 10
	// stopTimeout bounds how long calls may go on after the daemon was asked to
	// end.
	stopTimeout = 10 * time.Second
)

// server is the gRPC server with what every daemon of ours offers.
type server struct {
	*grpc.Server
	health   *health.Server
	registry *prometheus.Registry
}

func newServer(log *slog.Logger, t config.TLS, more ...grpc.ServerOption) (*server, error) {
	creds, err := credentialsOf(t)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
	reg.MustRegister(metrics)
	panics := recovery.WithRecoveryHandlerContext(func(ctx context.Context, p any) error {
		log.ErrorContext(ctx, "a call panicked", "panic", p, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "buildd: internal error: %v", p)
	})
	calls := logging.LoggerFunc(func(ctx context.Context, lvl logging.Level, msg string, fields ...any) {
		log.Log(ctx, slog.Level(lvl), msg, fields...)
	})
	levels := logging.WithLevels(func(c codes.Code) logging.Level {
		if c == codes.Internal || c == codes.DataLoss {
			return logging.LevelError
		}
		return logging.LevelDebug
	})
	finish := logging.WithLogOnEvents(logging.FinishCall)
	s := &server{health: health.NewServer(), registry: reg}
	s.Server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.Creds(creds), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(socketBuffer), grpc.WriteBufferSize(socketBuffer),
		grpc.ChainUnaryInterceptor(metrics.UnaryServerInterceptor(), logging.UnaryServerInterceptor(calls, levels, finish),
			grpcerrors.UnaryServerInterceptor, recovery.UnaryServerInterceptor(panics)),
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), logging.StreamServerInterceptor(calls, levels, finish),
			grpcerrors.StreamServerInterceptor, recovery.StreamServerInterceptor(panics)),
	}, more...)...)
	healthpb.RegisterHealthServer(s, s.health)
	reflection.Register(s)
	return s, nil
}

// credentialsOf returns mutual TLS where a CA is named.
func credentialsOf(t config.TLS) (credentials.TransportCredentials, error) {
	if t.Cert == "" {
		return insecure.NewCredentials(), nil
	}
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("load TLS certificate %s and key %s: %w", t.Cert, t.Key, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		if c.ClientCAs, err = certPool(t.CA); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return credentials.NewTLS(c), nil
}

// clientCredentials are for calls to servers whose certificates the CA signed;
// without any file there is no TLS.
func clientCredentials(t config.TLS) (credentials.TransportCredentials, error) {
	if t == (config.TLS{}) {
		return insecure.NewCredentials(), nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if t.CA != "" { // else the system's
		if c.RootCAs, err = certPool(t.CA); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("load TLS certificate %s and key %s: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(c), nil
}

func certPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load TLS CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load TLS CA %s: there is no PEM certificate in it", file)
	}
	return pool, nil
}

// run serves on all addresses until ctx ends. It returns when every call has
// ended.
func (s *server) run(ctx context.Context, log *slog.Logger, c config.Config) error {
	var listeners []net.Listener
	for _, a := range c.GRPC.Address {
		l, err := listen(a, c)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return err
		}
		listeners = append(listeners, l)
	}
	eg, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		log.Info("listening", "address", l.Addr().Network()+"://"+l.Addr().String())
		if l.Addr().Network() == "tcp" && c.GRPC.TLS.CA == "" {
			log.Warn("everybody who reaches this address can build: set --tlscert, --tlskey and --tlscacert", "address", l.Addr().String())
		}
		eg.Go(func() error { return s.Serve(l) })
	}
	eg.Go(func() error {
		<-ctx.Done()
		s.health.Shutdown()
		t := time.AfterFunc(stopTimeout, s.Stop)
		defer t.Stop()
		s.GracefulStop()
		return nil
	})
	if c.GRPC.DebugAddress != "" {
		eg.Go(func() error { return s.serveDebug(ctx, log, c.GRPC.DebugAddress) })
	}
	s.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	return eg.Wait()
}

// listen opens unix://PATH or tcp://HOST:PORT. A socket that a dead daemon left
// is replaced, one that somebody listens on is not.
func listen(addr string, c config.Config) (net.Listener, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	switch u.Scheme {
	case "unix":
		return listenUnix(filepath.Join(u.Host, u.Path), c)
	case "tcp":
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		return l, nil
	default:
		return nil, fmt.Errorf("address %q: want unix://PATH or tcp://HOST:PORT", addr)
	}
}

func listenUnix(path string, c config.Config) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make directory of the socket: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: a daemon listens there already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if c.GRPC.UID != nil {
		uid = *c.GRPC.UID
	}
	if c.GRPC.GID != nil {
		gid = *c.GRPC.GID
	}
	if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, fmt.Errorf("give the socket its owner: %w", err)
	}
	return l, nil
}

// serveDebug serves profiles and metrics.
func (s *server) serveDebug(ctx context.Context, log *slog.Logger, addr string) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on debug address: %w", err)
	}
	log.Info("debugging", "address", l.Addr().String())
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends with ctx
		<-ctx.Done()
		h.Close()
	}()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
