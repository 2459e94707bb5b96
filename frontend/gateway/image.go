package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/frontend"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/grpcerrors"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Options and labels of BuildKit's frontend gateway.v0.
const (
	optSource     = "source"
	optCaps       = "frontend.caps"
	labelCaps     = "moby.buildkit.frontend.caps"
	labelNoNet    = "moby.buildkit.frontend.network.none"
	capInputs     = "moby.buildkit.frontend.inputs"
	maxMessage    = 16 << 20
	releaseWithin = 10 * time.Second
)

// Image is the frontend gateway.v0: it runs a frontend that comes as an image,
// in a container without any right that a RUN does not have, and serves the
// gateway on its standard input and output.
type Image struct {
	// Builtin is called for the images that mean the daemon's own frontend, which
	// IsBuiltin knows.
	Builtin   frontend.Frontend
	IsBuiltin func(image string) bool
	// Allowed are the repositories that frontends may come from; empty allows
	// all.
	Allowed []string
}

// Build implements frontend.Frontend.
func (f Image) Build(ctx context.Context, c gwclient.Client) (*gwclient.Result, error) {
	opts := c.BuildOpts().Opts
	source := opts[optSource]
	if source == "" {
		return nil, fmt.Errorf("option %s is missing: it names the image of the frontend", optSource)
	}
	if f.IsBuiltin(source) {
		return f.Builtin.Build(ctx, c)
	}
	if err := f.allow(source); err != nil {
		return nil, err
	}
	cfg, ref, err := load(ctx, c, source)
	if err != nil {
		return nil, fmt.Errorf("load frontend %s: %w", source, err)
	}
	inputs, err := definitions(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := checkCaps(cfg, opts, len(inputs) > 0); err != nil {
		return nil, err
	}
	return run(ctx, c, cfg, ref, inputs)
}

func (f Image) allow(source string) error {
	if len(f.Allowed) == 0 {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return fmt.Errorf("frontend %q: %w", source, err)
	}
	for _, a := range f.Allowed {
		if n, err := reference.ParseNormalizedNamed(a); err == nil && n.Name() == named.Name() {
			return nil
		}
	}
	return fmt.Errorf("frontend %q is not allowed: the daemon allows %s", source, strings.Join(f.Allowed, ", "))
}

// load finds the frontend's image.
func load(ctx context.Context, c gwclient.Client, source string) (ocispecs.ImageConfig, gwclient.Reference, error) {
	var img ocispecs.Image
	named, err := reference.ParseNormalizedNamed(source)
	if err != nil {
		return img.Config, nil, err
	}
	name, dgst, raw, err := c.ResolveImageConfig(ctx, reference.TagNameOnly(named).String(), sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{}})
	if err != nil {
		return img.Config, nil, err
	}
	if err := json.Unmarshal(raw, &img); err != nil {
		return img.Config, nil, fmt.Errorf("read image config: %w", err)
	}
	if named, err = reference.ParseNormalizedNamed(name); err != nil {
		return img.Config, nil, err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(named), dgst)
	if err != nil {
		return img.Config, nil, err
	}
	def, err := llb.Image(pinned.String()).Marshal(ctx)
	if err != nil {
		return img.Config, nil, err
	}
	res, err := c.Solve(ctx, gwclient.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return img.Config, nil, err
	}
	ref, err := res.SingleRef()
	if err == nil && ref == nil {
		err = errors.New("the image is empty")
	}
	return img.Config, ref, err
}

func definitions(ctx context.Context, c gwclient.Client) (map[string]*pb.Definition, error) {
	states, err := c.Inputs(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*pb.Definition, len(states))
	for name, st := range states {
		def, err := st.Marshal(ctx)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		out[name] = def.ToPB()
	}
	return out, nil
}

func checkCaps(cfg ocispecs.ImageConfig, opts map[string]string, inputs bool) error {
	has := strings.Split(cfg.Labels[labelCaps], ",")
	want := strings.Split(opts[optCaps], ",")
	if inputs {
		want = append(want, capInputs)
	}
	for _, w := range want {
		if w != "" && !slices.Contains(has, w) {
			return grpcerrors.WrapCode(errdefs.NewUnsupportedFrontendCapError(w), codes.Unimplemented)
		}
	}
	return nil
}

// run starts the frontend and serves it until it has returned.
func run(ctx context.Context, c gwclient.Client, cfg ocispecs.ImageConfig, ref gwclient.Reference, inputs map[string]*pb.Definition) (*gwclient.Result, error) {
	req := gwclient.NewContainerRequest{Mounts: []gwclient.Mount{{Dest: "/", Ref: ref, MountType: pb.MountType_BIND}}}
	if cfg.Labels[labelNoNet] == "1" || cfg.Labels[labelNoNet] == "true" {
		req.NetMode = pb.NetMode_NONE
	}
	ctr, err := c.NewContainer(ctx, req)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		_ = ctr.Release(ctx) // the outcome is known by now
	}()
	s := NewSession(c, inputs)
	defer s.Close(context.WithoutCancel(ctx))
	theirs, ours := pipes()
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(s, ours)
	}()
	defer func() { ours.Close(); <-served }()
	env, err := environment(c, cfg)
	if err != nil {
		return nil, err
	}
	start := gwclient.StartRequest{Args: cfg.Entrypoint, Env: env, Cwd: cfg.WorkingDir, Stdin: theirs, Stdout: theirs, Stderr: nopCloser{os.Stderr}}
	if len(start.Args) == 0 {
		start.Args = []string{"/run"}
	}
	if start.Cwd == "" {
		start.Cwd = "/"
	}
	start.Cwd = path.Clean("/" + start.Cwd)
	p, err := ctr.Start(ctx, start)
	if err != nil {
		return nil, err
	}
	go func() { // ends with the process, which Release ends
		err := p.Wait()
		if err == nil {
			err = errors.New("the frontend ended without a result")
		}
		s.Fail(err)
	}()
	return s.Wait(ctx)
}

// environment tells a frontend what it was called with.
func environment(c gwclient.Client, cfg ocispecs.ImageConfig) ([]string, error) {
	o := c.BuildOpts()
	env := slices.Clone(cfg.Env)
	n := 0
	for k, v := range o.Opts {
		env = append(env, fmt.Sprintf("BUILDKIT_FRONTEND_OPT_%d=%s=%s", n, k, v))
		n++
	}
	ws, err := json.Marshal(o.Workers)
	if err != nil {
		return nil, err
	}
	return append(env, "BUILDKIT_SESSION_ID="+o.SessionID, "BUILDKIT_WORKERS="+string(ws), "BUILDKIT_EXPORTEDPRODUCT="+apicaps.ExportedProduct), nil
}

// serve speaks HTTP/2 over a connection that exists already.
func serve(s *Session, conn net.Conn) {
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(grpcerrors.UnaryServerInterceptor), grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
	)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	gwpb.RegisterLLBBridgeServer(srv, s)
	//lint:ignore SA1019 there is no other way to serve HTTP/2 on a connection that exists
	(&http2.Server{}).ServeConn(conn, &http2.ServeConnOpts{Handler: srv})
}

// stdio is a connection over two pipes.
type stdio struct {
	*io.PipeReader
	*io.PipeWriter
	once *sync.Once
}

// pipes returns both ends of a connection.
func pipes() (a, b stdio) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return stdio{r1, w2, &sync.Once{}}, stdio{r2, w1, &sync.Once{}}
}

func (s stdio) Close() error {
	s.once.Do(func() { s.PipeReader.Close(); s.PipeWriter.Close() })
	return nil
}
func (s stdio) LocalAddr() net.Addr              { return addr{} }
func (s stdio) RemoteAddr() net.Addr             { return addr{} }
func (s stdio) SetDeadline(time.Time) error      { return nil }
func (s stdio) SetReadDeadline(time.Time) error  { return nil }
func (s stdio) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "frontend" }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
