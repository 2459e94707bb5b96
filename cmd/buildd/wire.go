package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/builder/attest"
	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/builder/control"
	"github.com/buildd/buildd/builder/explain"
	"github.com/buildd/buildd/builder/explainapi"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/builder/history"
	"github.com/buildd/buildd/builder/imageapi"
	"github.com/buildd/buildd/builder/remotecache"
	"github.com/buildd/buildd/builder/trace"
	"github.com/buildd/buildd/cache/action"
	"github.com/buildd/buildd/cache/blob"
	"github.com/buildd/buildd/cache/image"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/frontend"
	"github.com/buildd/buildd/frontend/dockerfile"
	"github.com/buildd/buildd/frontend/gateway"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	blobsource "github.com/buildd/buildd/worker/source/blob"
	"github.com/buildd/buildd/worker/source/git"
	"github.com/buildd/buildd/worker/source/http"
	imagesource "github.com/buildd/buildd/worker/source/image"
	"github.com/buildd/buildd/worker/source/local"
	"github.com/buildd/buildd/worker/source/ocilayout"
	"github.com/buildd/buildd/worker/source/onefile"
	"github.com/containerd/containerd/v2/core/content"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// daemon is all that serves builds, in the order of its making.
type daemon struct {
	control   *control.Server
	images    *imageapi.Server
	explain   *explainapi.Server
	blobs     content.Store // that clients may read
	forwarder *gateway.Forwarder
	caches    *remotecache.Set
	traces    *trace.Recorder
	// background runs for as long as the daemon serves.
	background []func(context.Context) error
	closers    []func() error
	log        *slog.Logger
}

// register adds the daemon's services to a server.
func (d *daemon) register(s *server) {
	d.control.Register(s)
	d.forwarder.Register(s)
	d.images.Register(s)
	d.explain.Register(s)
	d.traces.Register(s)
	registerContent(s, d.blobs)
}

// close ends everything in the reverse order of its making.
func (d *daemon) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		if err := d.closers[i](); err != nil {
			d.log.Error("close", "error", err)
		}
	}
}

func (d *daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

// stores are what survives the daemon.
type stores struct {
	blobs   *blob.Store
	trees   *tree.Store
	actions *action.Store
	images  *image.Store
	history *history.Store
}

// openStores opens the state directory.
func (d *daemon) openStores(c config.Config, rootless rootless) (s stores, err error) {
	if err := os.MkdirAll(c.Root, 0o711); err != nil {
		return s, fmt.Errorf("make state directory: %w", err)
	}
	unlock, err := lock(filepath.Join(c.Root, "lock"))
	if err != nil {
		return s, err
	}
	d.onClose(unlock)
	if s.blobs, err = blob.Open(filepath.Join(c.Root, "blobs")); err != nil {
		return s, err
	}
	if s.trees, err = tree.Open(tree.Config{
		Dir: filepath.Join(c.Root, "trees"), Blobs: s.blobs, Rootless: rootless.on, IgnoreOwner: rootless.singleID, Log: d.log,
	}); err != nil {
		return s, err
	}
	d.onClose(s.trees.Close)
	if s.actions, err = action.Open(action.Config{Path: filepath.Join(c.Root, "actions.db"), Barrier: s.trees.Sync, Alive: d.alive(s.trees), Log: d.log}); err != nil {
		return s, err
	}
	d.onClose(s.actions.Close)
	if s.images, err = image.Open(image.Config{Path: filepath.Join(c.Root, "images.db"), Log: d.log}); err != nil {
		return s, err
	}
	d.onClose(s.images.Close)
	s.history, err = history.Open(history.Config{
		Path: filepath.Join(c.Root, "history.db"), Blobs: s.blobs, MaxEntries: c.History.MaxEntries, MaxAge: c.History.MaxAge.Duration, Log: d.log,
		Traces: d.traces,
	})
	if err == nil {
		d.onClose(s.history.Close)
	}
	return s, err
}

// wire makes the daemon: this is the one place that knows every source,
// exporter, runtime and cache there is.
func wire(ctx context.Context, log *slog.Logger, c config.Config, remote config.Remote) (_ *daemon, err error) {
	d := &daemon{log: log, forwarder: gateway.NewForwarder(), traces: trace.NewRecorder()}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	rootless := detectRootless(log)
	s, err := d.openStores(c, rootless)
	if err != nil {
		return nil, err
	}
	d.blobs = s.history.Contents()
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	hosts, err := registry.NewHosts(registry.Options{Registries: c.Registries})
	if err != nil {
		return nil, err
	}
	src, err := newSources(c, s, hosts, rootless)
	if err != nil {
		return nil, err
	}
	steps, err := d.newSteps(ctx, c, s, rootless, remote)
	if err != nil {
		return nil, err
	}
	d.newCaches(s, hosts)
	provider := d.provider(hosts)
	runner := worker.New(worker.Config{Trees: s.trees, Sources: src.all, Sessions: sessions, Steps: steps.run, Provider: provider})
	memory := &idleMemory{}
	collector, err := d.newCollector(c, s, src, steps)
	if err != nil {
		return nil, err
	}
	env, err := attest.ReadEnv(c.ProvenanceEnvDir)
	if err != nil {
		return nil, err
	}
	b := builder.New(builder.Config{
		Solver: solver.New(solver.Config{Cache: s.actions, Contents: runner, Runner: runner, Slots: int64(c.Workers.OCI.MaxParallelism)}),
		Bridge: &bridge.Config{
			Sources: src.all, Files: runner, Containers: steps.containers, Forget: steps.forget, Check: checkOp, Frontends: frontends(c),
			Workers: []gwclient.WorkerInfo{{ID: steps.id, Labels: steps.labels, Platforms: steps.platforms}},
		},
		Sessions: sessions, Trees: s.trees, Explainer: explain.New(explain.Config{Memory: s.actions, Trees: s.trees, Log: d.log}), History: s.history, Forwarder: d.forwarder,
		Provider: provider, Entitlements: c.Entitlements, Devices: steps.devices, Collect: func() { collector.Kick(); memory.ended() },
		ProvenanceEnv: env, DockerfileVersion: dockerfile.Version,
		Exporters: export.NewSet(export.Config{Trees: s.trees, Blobs: s.blobs, Images: s.images, Resolver: resolver(hosts)}),
		Caches:    d.caches,
	})
	d.background = append(d.background, collector.Run)
	d.images = imageapi.New(imageapi.Config{Images: s.images, Blobs: s.blobs, Removed: collector.Kick})
	d.explain = explainapi.New(s.history)
	d.control = control.New(control.Config{
		Builder: b, Sessions: sessions, Usage: usage{collector}, History: s.history, Workers: steps.list, Version: buildkitVersion(),
	})
	return d, nil
}

// sources are all kinds of sources; those that keep something between builds
// also by themselves.
type sources struct {
	all   *source.Set
	local *local.Source
	git   *git.Source
}

func newSources(c config.Config, s stores, hosts *registry.Hosts, rootless rootless) (out sources, err error) {
	dir := filepath.Join(c.Root, "sources")
	if out.local, err = local.New(local.Config{Trees: s.trees, Dir: filepath.Join(dir, "local"), IgnoreOwner: rootless.singleID}); err != nil {
		return out, err
	}
	urls, err := http.New(http.Config{Trees: s.trees, Dir: filepath.Join(dir, "http"), IgnoreOwner: rootless.singleID})
	if err != nil {
		return out, err
	}
	blobs := blobsource.New(onefile.Maker{Trees: s.trees, IgnoreOwner: rootless.singleID}, hosts)
	if out.git, err = git.New(git.Config{Trees: s.trees, Dir: filepath.Join(dir, "git"), Bundles: blobs}); err != nil {
		return out, err
	}
	out.all = source.NewSet(
		out.local, urls, out.git, blobs,
		imagesource.New(imagesource.Config{Trees: s.trees, Blobs: s.blobs, Names: s.images, Hosts: hosts}),
		ocilayout.New(s.trees, s.blobs, nil),
	)
	return out, nil
}

func frontends(c config.Config) map[string]frontend.Frontend {
	out := map[string]frontend.Frontend{}
	if on := c.Frontends.Dockerfile.Enabled; on == nil || *on {
		out["dockerfile.v0"] = dockerfile.Frontend{}
	}
	if g := c.Frontends.Gateway; g.Enabled == nil || *g.Enabled {
		out["gateway.v0"] = gateway.Image{Builtin: dockerfile.Frontend{}, IsBuiltin: dockerfile.Builtin, Allowed: g.AllowedRepositories}
	}
	return out
}

// checkOp refuses ops that are malformed before anything is keyed by them.
func checkOp(o *pb.Op) error {
	if o.GetSource() != nil {
		return nil // sources check their own
	}
	return op.Validate(o)
}

var errNoRunner = errors.New("no worker is enabled: set oci-worker, or name a remote worker with --worker")
