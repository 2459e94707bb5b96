package gateway

import (
	"context"
	"errors"
	"io"
	"sync"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/sys/signal"
	"golang.org/x/sync/errgroup"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// execStream is one ExecProcess call: it carries any number of processes.
type execStream struct {
	s   *Session
	srv gwpb.LLBBridge_ExecProcessServer
	eg  *errgroup.Group
	ctx context.Context

	sending sync.Mutex // a stream has one sender at a time
	procs   map[string]*process
}

// process is one process of an execStream.
type process struct {
	proc  gwclient.ContainerProcess
	stdin *io.PipeWriter
}

// ExecProcess implements gwpb.LLBBridgeServer.
func (s *Session) ExecProcess(srv gwpb.LLBBridge_ExecProcessServer) error {
	eg, ctx := errgroup.WithContext(srv.Context())
	x := &execStream{s: s, srv: srv, eg: eg, ctx: ctx, procs: map[string]*process{}}
	eg.Go(func() error {
		defer x.hangUp()
		for {
			m, err := srv.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := x.handle(m); err != nil {
				return err
			}
		}
	})
	return eg.Wait()
}

// hangUp ends what processes could still read.
func (x *execStream) hangUp() {
	for _, p := range x.procs {
		if p.stdin != nil {
			p.stdin.Close()
		}
	}
}

func (x *execStream) send(pid string, m *gwpb.ExecMessage) error {
	m.ProcessID = pid
	x.sending.Lock()
	defer x.sending.Unlock()
	return x.srv.Send(m)
}

func (x *execStream) handle(m *gwpb.ExecMessage) error {
	pid := m.ProcessID
	if pid == "" {
		return status.Error(codes.InvalidArgument, "a message needs the ID of its process")
	}
	p := x.procs[pid]
	if init := m.GetInit(); init != nil {
		if p != nil {
			return status.Errorf(codes.AlreadyExists, "process %q exists already", pid)
		}
		return x.start(pid, init)
	}
	if p == nil {
		return status.Errorf(codes.NotFound, "process %q was never started", pid)
	}
	switch in := m.Input.(type) {
	case *gwpb.ExecMessage_File:
		if in.File.GetFd() != 0 || p.stdin == nil {
			return status.Errorf(codes.InvalidArgument, "process %q does not read descriptor %d", pid, in.File.GetFd())
		}
		if _, err := p.stdin.Write(in.File.Data); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return err
		}
		if in.File.EOF {
			p.stdin.Close()
		}
		return nil
	case *gwpb.ExecMessage_Resize:
		return p.proc.Resize(x.ctx, gwclient.WinSize{Rows: in.Resize.Rows, Cols: in.Resize.Cols})
	case *gwpb.ExecMessage_Signal:
		sig, ok := signal.SignalMap[in.Signal.GetName()]
		if !ok {
			return status.Errorf(codes.InvalidArgument, "signal %q is not known", in.Signal.GetName())
		}
		return p.proc.Signal(x.ctx, sig)
	default:
		return status.Errorf(codes.InvalidArgument, "a message of kind %T is not for the daemon", in)
	}
}

func (x *execStream) start(pid string, init *gwpb.InitMessage) error {
	if init.Meta == nil {
		return status.Error(codes.InvalidArgument, "a process needs its meta: arguments, variables, user")
	}
	c, err := x.s.container(init.ContainerID)
	if err != nil {
		return err
	}
	p := &process{}
	req := gwclient.StartRequest{
		Args: init.Meta.Args, Env: init.Meta.Env, SecretEnv: init.Secretenv, User: init.Meta.User, Cwd: init.Meta.Cwd, Tty: init.Tty,
		SecurityMode: init.Security, RemoveMountStubsRecursive: init.Meta.RemoveMountStubsRecursive,
	}
	started := make(chan struct{}) // nothing may reach the client before Started
	var outs []*output
	for _, fd := range init.Fds {
		o := &output{x: x, pid: pid, fd: fd, started: started}
		switch fd {
		case 0:
			req.Stdin, p.stdin = io.Pipe()
		case 1:
			req.Stdout, outs = o, append(outs, o)
		case 2:
			req.Stderr, outs = o, append(outs, o)
		default:
			return status.Errorf(codes.InvalidArgument, "descriptor %d is asked for: want 0, 1 or 2", fd)
		}
	}
	if p.proc, err = c.Start(context.WithoutCancel(x.ctx), req); err != nil {
		return err
	}
	x.procs[pid] = p
	if err := x.send(pid, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Started{Started: &gwpb.StartedMessage{}}}); err != nil {
		return err
	}
	close(started)
	x.eg.Go(func() error { return x.wait(pid, p, outs) })
	return nil
}

// wait reports the end of a process: the end of its outputs, how it exited, and
// that nothing more will come.
func (x *execStream) wait(pid string, p *process, outs []*output) error {
	err := p.proc.Wait()
	for _, o := range outs {
		if err := x.send(pid, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, EOF: true}}}); err != nil {
			return err
		}
	}
	exit := &gwpb.ExitMessage{}
	if err != nil {
		exit.Code = gwpb.UnknownExitStatus
		st, _ := status.FromError(grpcerrors.ToGRPC(x.ctx, err))
		exit.Error = &spb.Status{Code: st.Proto().Code, Message: st.Proto().Message, Details: st.Proto().Details}
		if e, ok := errors.AsType[*gwpb.ExitError](err); ok {
			exit.Code = e.ExitCode
		}
	}
	if err := x.send(pid, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Exit{Exit: exit}}); err != nil {
		return err
	}
	return x.send(pid, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_Done{Done: &gwpb.DoneMessage{}}})
}

// output passes on what a process writes.
type output struct {
	x       *execStream
	pid     string
	fd      uint32
	started chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	select {
	case <-o.started:
	case <-o.x.ctx.Done():
		return 0, context.Cause(o.x.ctx)
	}
	err := o.x.send(o.pid, &gwpb.ExecMessage{Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Fd: o.fd, Data: append([]byte(nil), b...)}}})
	return len(b), err
}

func (o *output) Close() error { return nil }
