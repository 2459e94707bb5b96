package bridge

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/runtime"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// Containers makes containers for frontends that ask for one, such as a
// debugger or a frontend's image.
type Containers interface {
	NewContainer(ctx context.Context, r op.ContainerRequest) (*op.Container, error)
}

// NewContainer implements gwclient.Client.
func (c *Client) NewContainer(ctx context.Context, r gwclient.NewContainerRequest) (gwclient.Container, error) {
	if c.b.Containers == nil {
		return nil, errors.New("this daemon runs steps on other machines: a container cannot be started here")
	}
	req := op.ContainerRequest{Platform: r.Platform, Network: r.NetMode, Hostname: r.Hostname, ExtraHosts: r.ExtraHosts, Client: c.b.Lend}
	if err := c.b.Allow(&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Network: r.NetMode}}}); err != nil {
		return nil, err
	}
	out := &container{b: c.b}
	for i, m := range r.Mounts {
		pm := &pb.Mount{
			Input: -1, Output: -1, Selector: m.Selector, Dest: m.Dest, Readonly: m.Readonly, MountType: m.MountType,
			CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		}
		var view func(context.Context) (*digest.View, error)
		if m.Ref != nil {
			ref, ok := m.Ref.(*Ref)
			if !ok {
				return nil, fmt.Errorf("mount %d: a reference of type %T is not of this build", i, m.Ref)
			}
			t, err := ref.Tree(ctx)
			if err != nil {
				return nil, err
			}
			view = ref.view
			if _, err := view(ctx); err != nil { // fetches what is not here
				return nil, err
			}
			pm.Input = int64(len(req.Inputs))
			req.Inputs = append(req.Inputs, t)
		}
		out.views = append(out.views, view)
		req.Mounts = append(req.Mounts, pm)
	}
	var err error
	out.c, err = c.b.Containers.NewContainer(ctx, req)
	return out, err
}

// container implements gwclient.Container. Its files are read as they were when
// it was made.
type container struct {
	b     *Build
	c     *op.Container
	views []func(context.Context) (*digest.View, error) // by mount; nil where a mount has no tree
}

func (c *container) Start(ctx context.Context, r gwclient.StartRequest) (gwclient.ContainerProcess, error) {
	if err := c.b.Allow(&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Security: r.SecurityMode}}}); err != nil {
		return nil, err
	}
	p, err := c.c.Start(ctx, op.ProcessRequest{
		Args: r.Args, Env: r.Env, SecretEnv: r.SecretEnv, User: r.User, Cwd: r.Cwd, Terminal: r.Tty, Security: r.SecurityMode,
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
	})
	if err != nil {
		return nil, err
	}
	return containerProcess{p}, nil
}

func (c *container) Release(context.Context) error { return c.c.Release() }

func (c *container) view(ctx context.Context, mount int) (*digest.View, error) {
	if mount < 0 || mount >= len(c.views) || c.views[mount] == nil {
		return nil, fmt.Errorf("mount %d of the container has no files of a build", mount)
	}
	return c.views[mount](ctx)
}

func (c *container) ReadFile(ctx context.Context, r gwclient.ReadContainerRequest) ([]byte, error) {
	v, err := c.view(ctx, r.MountIndex)
	if err != nil {
		return nil, err
	}
	return readFile(v, r.ReadRequest)
}

func (c *container) StatFile(ctx context.Context, r gwclient.StatContainerRequest) (*fstypes.Stat, error) {
	v, err := c.view(ctx, r.MountIndex)
	if err != nil {
		return nil, err
	}
	return statFile(v, r.StatRequest)
}

func (c *container) ReadDir(ctx context.Context, r gwclient.ReadDirContainerRequest) ([]*fstypes.Stat, error) {
	v, err := c.view(ctx, r.MountIndex)
	if err != nil {
		return nil, err
	}
	return readDir(v, r.ReadDirRequest)
}

type containerProcess struct{ *op.ContainerProcess }

func (p containerProcess) Resize(ctx context.Context, s gwclient.WinSize) error {
	return p.ContainerProcess.Resize(ctx, runtime.WinSize{Rows: s.Rows, Cols: s.Cols})
}

func (p containerProcess) Signal(ctx context.Context, s syscall.Signal) error {
	return p.ContainerProcess.Signal(ctx, s)
}
