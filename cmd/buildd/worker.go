package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/worker/agent"
	"github.com/buildd/buildd/worker/userns"
	"github.com/moby/buildkit/solver/pb"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// defaultWorkerAddress is loopback, as without TLS everybody who reaches a
// worker can run steps on it.
const defaultWorkerAddress = "tcp://127.0.0.1:8372"

func workerCommand() *cobra.Command {
	var f config.Flags
	cmd := &cobra.Command{
		Use: "worker", Short: "Run steps for daemons on other machines (buildd --worker)",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
	}
	f.Register(cmd.Flags())
	for _, n := range []string{"worker", "worker-tlscert", "worker-tlskey", "worker-tlscacert"} {
		_ = cmd.Flags().MarkHidden(n) // it was registered a line above
	}
	set := cmd.Flags()
	set.Lookup("addr").Usage = "`address` to listen on: unix://PATH or tcp://HOST:PORT (default " + defaultWorkerAddress + ")"
	set.Lookup("root").Usage = "state `directory` (default " + config.DefaultRoot() + "-worker)"
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, warnings, err := f.Config()
		if err != nil {
			return err
		}
		if len(f.Remote.Addresses) > 0 {
			return errors.New("--worker: a worker runs steps itself")
		}
		// A file that was not named is the daemon's, which has its own socket and
		// directory.
		if !set.Changed("addr") && !set.Changed("config") {
			c.GRPC.Address = []string{defaultWorkerAddress}
		}
		if !set.Changed("root") && !set.Changed("config") {
			c.Root += "-worker"
		}
		return serveWorker(cmd.Context(), c, warnings)
	}
	return cmd
}

// serveWorker runs a worker until ctx ends.
func serveWorker(ctx context.Context, c config.Config, warnings []string) error {
	log := newLog(c)
	if userns.Needed() {
		return userns.Enter(log)
	}
	for _, w := range warnings {
		log.Warn(w)
	}
	srv, err := newServer(log, c.GRPC.TLS, agent.ServerOptions()...)
	if err != nil {
		return err
	}
	d := &daemon{log: log}
	defer d.close()
	s, err := d.wireWorker(ctx, c)
	if err != nil {
		return err
	}
	s.Register(srv)
	return d.serve(ctx, srv, c)
}

// wireWorker makes what runs steps for others.
func (d *daemon) wireWorker(ctx context.Context, c config.Config) (*agent.Server, error) {
	rootless := detectRootless(d.log)
	s, err := d.openStores(c, rootless)
	if err != nil {
		return nil, err
	}
	steps, err := d.newSteps(ctx, c, s, rootless, config.Remote{})
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(c.Root, &fs); err != nil {
		return nil, fmt.Errorf("measure disk of %s: %w", c.Root, err)
	}
	var collector *gc.Collector
	w, err := agent.NewServer(agent.ServerConfig{
		Steps: steps.run, Caches: steps.caches, Trees: s.trees, Blobs: s.blobs, Dir: c.Root, ID: steps.id, Version: version, Platforms: platformNames(steps.platforms),
		Labels: steps.labels, Slots: c.Workers.OCI.MaxParallelism, Allow: allowSteps(c.Entitlements), Ended: func() { collector.Kick() }, Log: d.log,
	})
	if err != nil {
		return nil, err
	}
	collector = gc.New(gc.Config{
		Dir: c.Root, Trees: s.trees, Blobs: s.blobs, Actions: s.actions, Images: s.images, Roots: []gc.Roots{s.history},
		Extras: []gc.Extra{w, cacheMounts{steps.caches}}, Policies: gcPolicies(c.Workers.OCI, int64(fs.Blocks)*fs.Bsize), Log: d.log,
	})
	d.background = append(d.background, collector.Run, w.Maintain)
	return w, nil
}

// allowSteps refuses what the worker's owner did not allow, whatever daemons do.
func allowSteps(entitlements []string) func(*pb.Op) error {
	need := func(name string, wanted bool) error {
		if !wanted || slices.Contains(entitlements, name) {
			return nil
		}
		return fmt.Errorf("%s is not allowed by the worker: start it with --allow-insecure-entitlement %s", name, name)
	}
	return func(o *pb.Op) error {
		x := o.GetExec()
		return errors.Join(
			need(builder.EntitlementNetworkHost, x.GetNetwork() == pb.NetMode_HOST),
			need(builder.EntitlementSecurityInsecure, x.GetSecurity() == pb.SecurityMode_INSECURE),
			need(builder.EntitlementDevice, len(x.GetCdiDevices()) > 0),
		)
	}
}
