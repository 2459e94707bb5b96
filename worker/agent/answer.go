package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/sshforward"
	"google.golang.org/grpc/metadata"

	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/session"
)

// maxAnswers is how many questions of a step are answered at a time; a worker
// that has more must wait.
const maxAnswers = 16

// answers is the work that a step's questions and connections make.
type answers struct {
	ctx    context.Context // of all of it
	cancel context.CancelFunc
	slots  chan struct{}
	wg     sync.WaitGroup
}

func newAnswers(ctx context.Context) *answers {
	a := &answers{slots: make(chan struct{}, maxAnswers)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	return a
}

// start runs f when it is its turn.
func (a *answers) start(f func(context.Context)) {
	select {
	case a.slots <- struct{}{}:
	case <-a.ctx.Done():
		return
	}
	a.wg.Go(func() {
		defer func() { <-a.slots }()
		f(a.ctx)
	})
}

// stop ends all of it.
func (a *answers) stop() {
	a.cancel()
	a.wg.Wait()
}

// answer answers a question, if the op names what it is about.
func (c *remoteCall) answer(ctx context.Context, q *workerv1.Question) {
	a := &workerv1.Answer{Number: q.Number}
	var err error
	switch about := q.About.(type) {
	case *workerv1.Question_Secret:
		if !c.step.names.secrets[about.Secret] {
			err = c.foreign("secret", about.Secret)
			break
		}
		a.Value, err = session.Secret(ctx, c.step.Client, about.Secret)
		a.Missing = errors.Is(err, session.ErrNotFound)
	case *workerv1.Question_Agent:
		if !c.step.names.agents[about.Agent] {
			err = c.foreign("SSH agent", about.Agent)
			break
		}
		_, err = c.agent(ctx, about.Agent)
		a.Missing = err != nil
	default:
		err = fmt.Errorf("a question about %T is not known", about)
	}
	if err != nil {
		a.Value, a.Error = nil, clip(plain(err).Error())
	}
	// If it cannot be sent, nobody waits for it.
	_ = c.push(&workerv1.RunRequest{Message: &workerv1.RunRequest_Answer{Answer: a}})
}

// foreign refuses what the op does not name. A worker of ours never asks for it.
func (c *remoteCall) foreign(what, id string) error {
	c.p.log.Error("a worker asked for what its step does not use", "worker", c.p.addr, "step", c.step.Name, "what", what, "id", fmt.Sprintf("%.100q", id))
	return fmt.Errorf("the step names no %s %.100q", what, id)
}

// agent returns the session that forwards an SSH agent.
func (c *remoteCall) agent(ctx context.Context, id string) (bksession.Caller, error) {
	return session.Pick(ctx, c.step.Client, "", func(ctx context.Context, caller bksession.Caller) error {
		return sshforward.CheckSSHID(ctx, caller, id)
	})
}

// frame hands a frame to its connection, which it opens with its first one.
func (c *remoteCall) frame(f *workerv1.Frame) {
	if f.Agent == "" {
		c.links.deliver(f)
		return
	}
	l, err := c.links.add(f.Connection)
	if err == nil && !c.step.names.agents[f.Agent] {
		c.links.drop(l)
		err = c.foreign("SSH agent", f.Agent)
	}
	if err != nil {
		_ = c.links.send(&workerv1.Frame{Connection: f.Connection, Closed: true, Error: clip(err.Error())})
		return
	}
	c.answers.wg.Go(func() {
		defer c.links.drop(l)
		if err := c.forward(c.answers.ctx, l, f.Agent); err != nil {
			_ = c.links.send(&workerv1.Frame{Connection: l.id, Closed: true, Error: clip(plain(err).Error())})
		}
	})
}

// forward connects a link to the client's agent until both have ended.
func (c *remoteCall) forward(ctx context.Context, l *link, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	caller, err := c.agent(ctx, id)
	if err != nil {
		return err
	}
	out := metadata.NewOutgoingContext(caller.Context(ctx), metadata.Pairs(sshforward.KeySSHID, id))
	stream, err := sshforward.NewSSHClient(caller.Conn()).ForwardAgent(out)
	if err != nil {
		return err
	}
	var back sync.WaitGroup
	back.Go(func() { c.links.outbound(l, stream) })
	err = c.links.inbound(ctx, l, stream)
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		cancel()
	}
	back.Wait()
	return err
}
