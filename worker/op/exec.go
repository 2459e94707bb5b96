package op

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/device"
	"github.com/buildd/buildd/worker/runtime"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Exec runs a command. A command that fails gives an error that wraps the
// gateway's ExitError, which carries the exit code to the client.
func (w *Worker) Exec(ctx context.Context, r Request) (_ []cache.Tree, err error) {
	if err := w.check(r); err != nil {
		return nil, err
	}
	if err := validateResources(r.Resources); err != nil {
		return nil, err
	}
	x := r.Op.GetExec()
	platform := r.Platform
	if platform == nil {
		platform = r.Op.Platform
	}
	devices, err := w.findDevices(x.CdiDevices)
	if err != nil {
		return nil, err
	}
	s, err := w.newSandbox(ctx, sandboxRequest{
		name: "exec " + strings.Join(x.Meta.Args, " "), mounts: x.Mounts, inputs: r.Inputs, client: r.Client,
		network: x.Network, hostname: x.Meta.Hostname, extraHosts: x.Meta.ExtraHosts, cwd: x.Meta.Cwd,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := s.close(); err == nil {
			err = cerr
		}
	}()
	env := newEnvironment(x.Meta.Env)
	env.setProxy(x.Meta.ProxyEnv)
	if err := env.setSecrets(ctx, r.Client, x.Secretenv); err != nil {
		return nil, err
	}
	args := s.emulate(platform, x.Meta.Args)
	spec, err := s.prepare(ctx, processRequest{
		args: args, env: env, cwd: x.Meta.Cwd, user: x.Meta.User, insecure: x.Security == pb.SecurityMode_INSECURE,
		ulimits: x.Meta.Ulimit, cgroupParent: x.Meta.CgroupParent, resources: r.Resources,
	})
	if err != nil {
		return nil, err
	}
	if err := w.Devices.Inject(spec, devices...); err != nil {
		return nil, err
	}
	if err := w.run(ctx, s.id, spec, x.Meta, platform, r.Progress); err != nil {
		return nil, err
	}
	return s.outputs(ctx)
}

// findDevices returns the devices of this worker that are asked for; optional
// ones that it has not are left out.
func (w *Worker) findDevices(list []*pb.CDIDevice) ([]device.Device, error) {
	var out []device.Device
	for _, d := range list {
		found, err := w.Devices.Find(d.Name)
		if err != nil && !(d.Optional && errors.Is(err, device.ErrNotFound)) {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// emulate puts an emulator before the arguments of a step that needs one.
func (s *sandbox) emulate(p *pb.Platform, args []string) []string {
	path := emulator(p)
	if path == "" {
		return args
	}
	s.mounts = append(s.mounts, plannedMount{Mount: specs.Mount{
		Destination: emulatorPath, Type: "bind", Source: path, Options: []string{"bind", "ro", "nosuid", "nodev", "rprivate"},
	}})
	return append([]string{emulatorPath}, args...)
}

// run runs the container and interprets its end.
func (w *Worker) run(ctx context.Context, id string, spec *specs.Spec, meta *pb.Meta, p *pb.Platform, out Progress) error {
	pass := func(int, []byte) {}
	if out != nil {
		pass = out.Log
	}
	began := time.Now()
	stdout := &logStream{stream: 1, limits: w.Logs, began: began, pass: pass}
	stderr := &logStream{stream: 2, limits: w.Logs, began: began, pass: pass}
	err := w.Runtime.Run(ctx, id, runtime.Sandbox{Spec: spec}, runtime.Process{Stdout: stdout, Stderr: stderr})
	if err = exitError(ctx, err, meta.ValidExitCodes); err == nil {
		return nil
	}
	stdout.flush()
	stderr.flush()
	return fmt.Errorf("process %q did not complete successfully: %w", strings.Join(meta.Args, " "), platformError(p, err, stderr.beginning()))
}

// exitError returns nil if the process ended as it should. valid are the exit
// codes that count as success; nil is 0 alone.
func exitError(ctx context.Context, err error, valid []int32) error {
	var exit *runtime.ExitError
	code := gwpb.UnknownExitStatus
	switch {
	case err == nil:
		code = 0
	case errors.As(err, &exit):
		code = exit.Code
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return &gwpb.ExitError{ExitCode: uint32(code), Err: fmt.Errorf("%w: %w", err, cause)}
	}
	if err == nil && valid == nil {
		return nil
	}
	// A command that could not be executed has no exit code of its own.
	if runtime.Started(err) && slices.Contains(valid, int32(code)) {
		return nil
	}
	switch {
	case err == nil:
		return &gwpb.ExitError{}
	case exit != nil && exit.OOM:
		err = fmt.Errorf("%w: %w", exit, syscall.ENOMEM)
	case exit != nil && exit.Err == nil:
		err = nil // "exit code: N", as clients know it
	}
	return &gwpb.ExitError{ExitCode: uint32(code), Err: err}
}
