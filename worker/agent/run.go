package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/op"
)

var (
	errClientGone = errors.New("the daemon cancelled the step, or is gone")
	errEnded      = errors.New("the step has ended")
)

// Run implements the service.
func (s *Server) Run(stream grpc.BidiStreamingServer[workerv1.RunRequest, workerv1.RunEvent]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return status.Error(codes.InvalidArgument, "the first message is no start")
	}
	lease, done, err := s.leases.use(start.Lease)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	defer done()
	r, err := s.request(start, lease)
	if err != nil {
		return err
	}
	s.running.Add(1)
	defer s.cfg.Ended()
	defer s.running.Add(-1)

	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(errEnded)
	c := newCall(ctx)
	defer c.close()
	go c.receive(stream, cancel) // ends with the stream, which is when this returns
	finished := false
	var g errgroup.Group
	g.Go(func() (err error) {
		if finished, err = c.transmit(stream); err != nil {
			cancel(fmt.Errorf("%w: %w", errClientGone, err))
		}
		return nil
	})
	r.Progress, r.Client = c, c
	last := s.step(ctx, r, lease)
	c.close() // nothing comes after the last event
	if err := c.push(last); err != nil {
		cancel(err)
	}
	if err := g.Wait(); err != nil || finished {
		return err
	}
	s.cfg.Log.Debug("step was cancelled", "step", start.Name, "cause", context.Cause(ctx))
	return status.Error(codes.Canceled, context.Cause(ctx).Error())
}

// request reads what is to be run. Of the op nothing is believed: whoever runs it
// validates it.
func (s *Server) request(start *workerv1.Start, lease *lease) (r op.Request, err error) {
	r = op.Request{Name: start.Name, Op: &pb.Op{}}
	err = proto.Unmarshal(start.Op, r.Op)
	if err == nil && len(start.Platform) > 0 {
		r.Platform = &pb.Platform{}
		err = proto.Unmarshal(start.Platform, r.Platform)
	}
	if err == nil && len(start.Resources) > 0 {
		r.Resources = &pb.LinuxResources{}
		err = proto.Unmarshal(start.Resources, r.Resources)
	}
	if err != nil {
		return r, status.Errorf(codes.InvalidArgument, "read the step: %v", err)
	}
	if err := op.Validate(r.Op); err != nil {
		return r, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.cfg.Allow(r.Op); err != nil {
		return r, status.Error(codes.PermissionDenied, err.Error())
	}
	for i, in := range start.Inputs {
		var ids []cache.LayerID
		for _, l := range in.GetLayers() {
			ids = append(ids, cache.LayerID(l.GetId()))
		}
		t, err := s.cfg.Trees.Append("", ids...)
		if err == nil {
			err = lease.add(t)
		}
		if err != nil {
			return r, statusOf(fmt.Errorf("input %d: %w", i, err))
		}
		r.Inputs = append(r.Inputs, t)
	}
	return r, nil
}

// step runs the step and returns the event that ends it.
func (s *Server) step(ctx context.Context, r op.Request, lease *lease) *workerv1.RunEvent {
	trees, err := s.work(ctx, r)
	result := &workerv1.Result{}
	for i := 0; i < len(trees) && err == nil; i++ {
		var t *workerv1.Tree
		if err = lease.add(trees[i]); err == nil {
			t, err = s.describe(trees[i])
		}
		result.Outputs = append(result.Outputs, t)
	}
	if err != nil {
		return &workerv1.RunEvent{Message: &workerv1.RunEvent_Failure{Failure: failureOf(err)}}
	}
	return &workerv1.RunEvent{Message: &workerv1.RunEvent_Result{Result: result}}
}

// work brings the inputs' files and runs the op when there is a slot.
func (s *Server) work(ctx context.Context, r op.Request) ([]cache.Tree, error) {
	switch r.Op.Op.(type) {
	case *pb.Op_Exec, *pb.Op_File, *pb.Op_Diff: // the others read no files
		for _, t := range r.Inputs {
			if err := s.cfg.Trees.Ensure(ctx, t, nil, progress(r.Progress)); err != nil {
				return nil, err
			}
		}
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return s.cfg.Steps.Run(ctx, r)
}

// progress shows how layers are unpacked.
func progress(p op.Progress) tree.Progress {
	began := time.Now()
	return func(d ocispecs.Descriptor, done, total int64, unpacked bool) {
		st := solver.Status{ID: d.Digest.String(), Current: done, Total: total, Started: began}
		if unpacked {
			st.Completed = time.Now()
		}
		p.Status(st)
	}
}

func (s *Server) describe(t cache.Tree) (*workerv1.Tree, error) {
	layers, err := s.cfg.Trees.Layers(t)
	out := &workerv1.Tree{}
	for i := 0; i < len(layers) && err == nil; i++ {
		var h tree.Header
		h, err = s.cfg.Trees.Header(layers[i].ID)
		out.Layers = append(out.Layers, layerOf(h))
	}
	return out, err
}

// failureOf writes an error so that errorOf can make it again.
func failureOf(err error) *workerv1.Failure {
	f := &workerv1.Failure{Message: clip(err.Error())}
	var exit *gwpb.ExitError
	if errors.As(err, &exit) {
		f.Exit = &workerv1.Exit{Code: exit.ExitCode}
		if exit.Err != nil {
			f.Exit.Message = clip(exit.Err.Error())
		}
	}
	return f
}

// clip bounds a text that goes into one message.
func clip(s string) string {
	const most = 64 << 10
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// call is one step as the worker's side of the stream sees it: what the step
// says, asks and is answered. It is the step's Progress and session client.
type call struct {
	ctx    context.Context
	events chan *workerv1.RunEvent
	back   *backchannel
}

// queue is how many events may wait to be sent; then the step waits.
const queue = 64

func newCall(ctx context.Context) *call {
	c := &call{ctx: ctx, events: make(chan *workerv1.RunEvent, queue)}
	c.back = newBackchannel(c.push)
	return c
}

func (c *call) close() { c.back.close() }

// push queues an event.
func (c *call) push(e *workerv1.RunEvent) error {
	select {
	case c.events <- e:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// transmit sends events up to the last one; finished says that it got there.
func (c *call) transmit(stream grpc.BidiStreamingServer[workerv1.RunRequest, workerv1.RunEvent]) (finished bool, err error) {
	for {
		select {
		case <-c.ctx.Done():
			return false, nil
		case e := <-c.events:
			if err := stream.Send(e); err != nil {
				return false, err
			}
			switch e.Message.(type) {
			case *workerv1.RunEvent_Result, *workerv1.RunEvent_Failure:
				return true, nil
			}
		}
	}
}

// receive takes the daemon's answers, and its end for a cancellation.
func (c *call) receive(stream grpc.BidiStreamingServer[workerv1.RunRequest, workerv1.RunEvent], cancel context.CancelCauseFunc) {
	for {
		m, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %w", errClientGone, err)
			} else {
				err = errClientGone
			}
			cancel(err)
			return
		}
		switch m := m.Message.(type) {
		case *workerv1.RunRequest_Answer:
			c.back.answer(m.Answer)
		case *workerv1.RunRequest_Frame:
			c.back.links.deliver(m.Frame)
		default:
			cancel(fmt.Errorf("the daemon sent a %T in the middle of a step", m))
			return
		}
	}
}

// Log implements op.Progress.
func (c *call) Log(stream int, data []byte) {
	for len(data) > 0 { // a step that failed may hand in much at once
		n := min(len(data), chunk)
		l := &workerv1.Log{Stream: uint32(stream), Data: data[:n]}
		// What cannot be sent has nobody left who would read it.
		_ = c.push(&workerv1.RunEvent{Message: &workerv1.RunEvent_Log{Log: l}})
		data = data[n:]
	}
}

// Status implements op.Progress.
func (c *call) Status(s solver.Status) {
	st := &workerv1.Status{Id: s.ID, Current: s.Current, Total: s.Total, Started: nanos(s.Started), Completed: nanos(s.Completed)}
	_ = c.push(&workerv1.RunEvent{Message: &workerv1.RunEvent_Status{Status: st}}) // as with Log
}

// nanos is the wire's form of a time; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeOf(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
