package main

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/worker/agent"
	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// newSteps makes what runs steps: this machine, or the remote workers if there
// are any.
func (d *daemon) newSteps(ctx context.Context, c config.Config, s stores, r rootless, remote config.Remote) (*steps, error) {
	id, err := identity(c.Root)
	if err != nil {
		return nil, err
	}
	ps, err := platformsOf(c)
	if err != nil {
		return nil, err
	}
	out := &steps{id: id, labels: labels(c), platforms: ps}
	if len(remote.Addresses) > 0 {
		return out, d.sendSteps(ctx, c, s, remote, out)
	}
	if on := c.Workers.OCI.Enabled; on != nil && !*on {
		return nil, errNoRunner
	}
	if out.devices, err = newDevices(c); err != nil {
		return nil, err
	}
	w, caches, err := d.newLocalSteps(ctx, c, s, r, out.devices)
	if err != nil {
		return nil, err
	}
	d.onClose(w.Close)
	out.run, out.containers, out.caches = w, w, caches
	return out, nil
}

// sendSteps makes remote workers run the steps. Of a worker that cannot be
// reached now nothing is known but that it may come.
func (d *daemon) sendSteps(ctx context.Context, c config.Config, s stores, remote config.Remote, out *steps) error {
	creds, err := clientCredentials(remote.TLS)
	if err != nil {
		return err
	}
	r, err := agent.NewRemote(agent.RemoteConfig{Workers: remote.Addresses, Credentials: creds, Trees: s.trees, Blobs: s.blobs, Log: d.log})
	if err != nil {
		return err
	}
	d.onClose(r.Close)
	out.run = r
	out.labels["org.mobyproject.buildkit.worker.executor"] = "buildd-remote"
	workers := r.Workers(ctx)
	for _, w := range workers {
		d.log.Info("steps are sent to a worker", "id", w.Id, "version", w.Version, "platforms", w.Platforms, "slots", w.Load.GetSlots())
	}
	if len(c.Workers.OCI.Platforms) > 0 || len(workers) == 0 {
		return nil
	}
	out.platforms = nil
	seen := map[string]bool{}
	for _, w := range workers {
		for _, text := range w.Platforms {
			p, err := platforms.Parse(text)
			if err != nil {
				return fmt.Errorf("worker %s runs the platform %q: %w", w.Id, text, err)
			}
			if p = platforms.Normalize(p); !seen[platforms.Format(p)] {
				seen[platforms.Format(p)] = true
				out.platforms = append(out.platforms, p)
			}
		}
	}
	return nil
}

// platformNames writes platforms for Info.
func platformNames(ps []ocispecs.Platform) []string {
	var out []string
	for _, p := range ps {
		out = append(out, platforms.Format(p))
	}
	return out
}
