package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildd/buildd/builder/bridge"
	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/buildd/buildd/frontend/dockerfile"
	"github.com/buildd/buildd/worker"
	"github.com/buildd/buildd/worker/device"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/runtime"
	"github.com/buildd/buildd/worker/runtime/native"
	"github.com/buildd/buildd/worker/runtime/oci"
	"github.com/containerd/platforms"
	types "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// steps is what runs the steps of this daemon's builds.
type steps struct {
	run        worker.Steps
	containers bridge.Containers // nil where steps run on other machines
	caches     *mount.Caches     // nil likewise
	devices    *device.Manager   // nil for none
	id         string
	labels     map[string]string
	platforms  []ocispecs.Platform
	policies   []*types.GCPolicy
}

// forget empties cache mounts.
func (s *steps) forget(ctx context.Context, ids ...string) error {
	if s.caches != nil {
		return s.caches.Forget(ctx, ids...)
	}
	if r, ok := s.run.(interface {
		Forget(ctx context.Context, ids ...string) error
	}); ok {
		return r.Forget(ctx, ids...)
	}
	return nil
}

// list implements control's Workers.
func (s *steps) list(_ context.Context, filters []string) ([]*types.WorkerRecord, error) {
	return []*types.WorkerRecord{{
		ID: s.id, Labels: s.labels, Platforms: pb.PlatformsFromSpec(s.platforms), BuildkitVersion: buildkitVersion(), GCPolicy: s.policies, CDIDevices: s.cdiDevices(),
	}}, nil
}

func (s *steps) cdiDevices() []*types.CDIDevice {
	var out []*types.CDIDevice
	for _, d := range s.devices.List() {
		out = append(out, &types.CDIDevice{Name: d.Name, AutoAllow: d.AutoAllow, Annotations: d.Annotations})
	}
	return out
}

// newDevices reads the host's device specifications unless that is turned off.
func newDevices(c config.Config) (*device.Manager, error) {
	if off := c.CDI.Disabled; off != nil && *off {
		return nil, nil
	}
	return device.New(device.Config{SpecDirs: c.CDI.SpecDirs, AutoAllowed: c.CDI.AutoAllowed})
}

// newLocalSteps makes what runs steps on this machine.
func (d *daemon) newLocalSteps(ctx context.Context, c config.Config, s stores, r rootless, devices *device.Manager) (*op.Worker, *mount.Caches, error) {
	rt, err := d.newRuntime(c, r)
	if err != nil {
		return nil, nil, err
	}
	networks, err := d.newNetworks(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	caches, err := mount.OpenCaches(filepath.Join(c.Root, "caches"))
	if err != nil {
		return nil, nil, err
	}
	w := c.Workers.OCI
	o, err := op.New(op.Config{
		Dir: filepath.Join(c.Root, "run"), Trees: s.trees, Runtime: rt, Networks: networks, Caches: caches, Devices: devices,
		DNS:       op.DNS{Nameservers: c.DNS.Nameservers, SearchDomains: c.DNS.SearchDomains, Options: c.DNS.Options},
		UserXattr: r.on, IgnoreOwner: r.singleID, Rootless: r.on, CgroupParent: cgroupParent(c), ApparmorProfile: w.ApparmorProfile,
	})
	if err != nil {
		return nil, nil, err
	}
	d.onClose(o.Close)
	return o, caches, nil
}

// cgroupParent is where the control groups of steps lie. Daemons that share a
// machine must not share it: each removes what it finds there when it starts.
func cgroupParent(c config.Config) string {
	if p := c.Workers.OCI.DefaultCgroupParent; p != "" {
		return p
	}
	return "/buildd-" + digest.FromString(c.Root).Encoded()[:12]
}

func (d *daemon) newRuntime(c config.Config, r rootless) (runtime.Runtime, error) {
	cleanup := func() error { return native.Cleanup(cgroupParent(c)) }
	if err := cleanup(); err != nil {
		d.log.Warn("clean up after a daemon that was killed", "error", err)
	}
	if binary := c.Workers.OCI.Binary; binary != "" {
		d.onClose(cleanup) // such programs leave the parents of their groups
		return oci.New(oci.Config{Binary: binary, Root: filepath.Join(c.Root, "oci"), Rootless: r.on, Log: d.log})
	}
	rt, err := native.New(native.Config{Rootless: r.on, KeepOwner: r.singleID, Log: d.log})
	if err != nil {
		return nil, err
	}
	d.onClose(func() error { return errors.Join(rt.Close(), cleanup()) })
	return rt, nil
}

// identity returns the worker's ID, which is as old as its state directory.
func identity(root string) (string, error) {
	path := filepath.Join(root, "worker-id")
	if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
		return strings.TrimSpace(string(b)), nil
	}
	id := strings.ToLower(rand.Text())
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("save worker ID: %w", err)
	}
	return id, nil
}

// labels are those that BuildKit's workers have, and the configured ones.
func labels(c config.Config) map[string]string {
	host, _ := os.Hostname() // a machine without a name has none to show
	out := map[string]string{
		"org.mobyproject.buildkit.worker.executor":    "buildd",
		"org.mobyproject.buildkit.worker.hostname":    host,
		"org.mobyproject.buildkit.worker.network":     c.Workers.OCI.NetworkMode,
		"org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
	}
	for k, v := range c.Workers.OCI.Labels {
		out[k] = v
	}
	return out
}

// platformsOf returns the platforms that steps can run for: the configured ones,
// or this machine's.
func platformsOf(c config.Config) ([]ocispecs.Platform, error) {
	if len(c.Workers.OCI.Platforms) == 0 {
		return []ocispecs.Platform{platforms.Normalize(platforms.DefaultSpec())}, nil
	}
	var out []ocispecs.Platform
	for _, s := range c.Workers.OCI.Platforms {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", s, err)
		}
		out = append(out, platforms.Normalize(p))
	}
	return out, nil
}

func buildkitVersion() *types.BuildkitVersion {
	return &types.BuildkitVersion{Package: "github.com/buildd/buildd", Version: version, Revision: revision(), DockerfileVersion: dockerfile.Version}
}
