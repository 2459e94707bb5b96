package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc"

	"github.com/buildd/buildd/cache"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/solver"
)

const (
	// stopTime is how long a worker may take to stop a step that was cancelled
	// before it is no longer waited for.
	stopTime = 15 * time.Second
	// maxEvents bounds the bytes of all that a step says.
	maxEvents = 1 << 30
	// maxStatusID bounds the name of a part of a step.
	maxStatusID = 4096
)

// run runs a step on the worker, which has been chosen for it.
func (p *peer) run(ctx context.Context, s *step) ([]cache.Tree, error) {
	p.mu.Lock()
	p.mine++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.mine--
		p.mu.Unlock()
	}()
	lease := newLease()
	if err := p.push(ctx, s, lease); err != nil {
		return nil, p.lost(err)
	}
	result, err := p.execute(ctx, s, lease)
	if err != nil {
		return nil, err
	}
	out, err := p.pull(ctx, s, result)
	return out, p.lost(err)
}

// execute lets the worker run the step. An error of the step itself is as if it
// had run here; one of the worker or the connection is a lostError.
func (p *peer) execute(ctx context.Context, s *step, lease string) (*workerv1.Result, error) {
	start, err := s.start(lease)
	if err != nil {
		return nil, err
	}
	// A step that is cancelled is asked to stop and waited for, so the call lives
	// longer than ctx.
	callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stream, err := p.api.Run(callCtx)
	if err != nil {
		return nil, p.lost(err)
	}
	c := &remoteCall{p: p, step: s, requests: make(chan *workerv1.RunRequest, queue), done: make(chan struct{}), answers: newAnswers(ctx)}
	c.links = newLinks(func(f *workerv1.Frame) error {
		return c.push(&workerv1.RunRequest{Message: &workerv1.RunRequest_Frame{Frame: f}})
	})
	var work sync.WaitGroup
	work.Go(func() { c.transmit(ctx, stream, start) })
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(stopTime, cancel) // which does nothing if the call has ended by then
	})()
	last, err := c.receive(stream)
	close(c.done)
	c.answers.stop()
	work.Wait()
	if ctx.Err() != nil {
		c.drain(stream)
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, p.lost(err)
	}
	return last.GetResult(), errorOf(last.GetFailure())
}

// remoteCall is one step as the daemon's side of the stream sees it.
type remoteCall struct {
	p        *peer
	step     *step
	requests chan *workerv1.RunRequest
	done     chan struct{} // closed when nothing more is to be sent
	links    *links
	answers  *answers
}

// push queues a request.
func (c *remoteCall) push(r *workerv1.RunRequest) error {
	select {
	case c.requests <- r:
		return nil
	case <-c.done:
		return errEnded
	}
}

type runStream = grpc.BidiStreamingClient[workerv1.RunRequest, workerv1.RunEvent]

// transmit sends the start and then requests until the step has ended or is
// cancelled. A stream that is broken is noticed by who receives from it.
func (c *remoteCall) transmit(ctx context.Context, stream runStream, start *workerv1.Start) {
	defer func() { _ = stream.CloseSend() }() // which cancels a step that has not ended
	if stream.Send(&workerv1.RunRequest{Message: &workerv1.RunRequest_Start{Start: start}}) != nil {
		return
	}
	for {
		select {
		case r := <-c.requests:
			if stream.Send(r) != nil {
				return
			}
		case <-c.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// drain waits for the worker to end a call that was cancelled.
func (c *remoteCall) drain(stream runStream) {
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// receive handles events up to the last one, which it returns.
func (c *remoteCall) receive(stream runStream) (*workerv1.RunEvent, error) {
	size := 0
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, &lostError{addr: c.p.addr, err: errors.New("it ended the call without a result"), down: true}
		}
		if err != nil {
			return nil, err
		}
		switch m := e.Message.(type) {
		case *workerv1.RunEvent_Result, *workerv1.RunEvent_Failure:
			return e, nil
		case *workerv1.RunEvent_Log:
			size += len(m.Log.Data)
			err = c.log(m.Log)
		case *workerv1.RunEvent_Status:
			size += 64
			err = c.status(m.Status)
		case *workerv1.RunEvent_Question:
			c.answers.start(func(ctx context.Context) { c.answer(ctx, m.Question) })
		case *workerv1.RunEvent_Frame:
			c.frame(m.Frame)
		default:
			err = fmt.Errorf("it sent a %T, which is not known", m)
		}
		if size > maxEvents {
			err = fmt.Errorf("the step says more than %d bytes", maxEvents)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (c *remoteCall) log(l *workerv1.Log) error {
	if l.Stream != 1 && l.Stream != 2 {
		return fmt.Errorf("it sent a log of stream %d: want 1 or 2", l.Stream)
	}
	c.step.spoke.Store(true)
	if c.step.Progress != nil {
		c.step.Progress.Log(int(l.Stream), l.Data)
	}
	return nil
}

func (c *remoteCall) status(st *workerv1.Status) error {
	if st.Id == "" || len(st.Id) > maxStatusID {
		return fmt.Errorf("it sent a status with a name of %d bytes", len(st.Id))
	}
	if c.step.Progress != nil {
		c.step.Progress.Status(solver.Status{
			ID: st.Id, Current: st.Current, Total: st.Total, Started: timeOf(st.Started), Completed: timeOf(st.Completed),
		})
	}
	return nil
}

// stepError is how a step failed, in the words of the worker.
type stepError struct {
	message string
	exit    error // what the client is to see of it, nil if there is nothing
}

func (e *stepError) Error() string { return e.message }
func (e *stepError) Unwrap() error { return e.exit }

// errorOf makes the error again that failureOf wrote, the exit code that clients
// look for included.
func errorOf(f *workerv1.Failure) error {
	if f == nil {
		return nil
	}
	e := &stepError{message: f.Message}
	if f.Exit != nil {
		x := &gwpb.ExitError{ExitCode: f.Exit.Code}
		if f.Exit.Message != "" {
			x.Err = errors.New(f.Exit.Message)
		}
		e.exit = x
	}
	return e
}
