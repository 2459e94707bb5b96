package attest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Build is what provenance tells of a build as a whole.
type Build struct {
	// ID is the build's own, never used again.
	ID string
	// Env are the fields that the daemon's owner adds, as ReadEnv has them.
	Env map[string]any
	// DockerfileVersion is that of the daemon's own frontend.
	DockerfileVersion string
	// CompatibilityVersion is what the client asked for, 0 for nothing.
	CompatibilityVersion int
	// Layers may be nil.
	Layers Layers

	begun *sample
	once  sync.Once
	ended *sample // after once
}

// Begin says that the build begins now, and that the resources that the machine
// uses are to be told.
func (b *Build) Begin(usage bool) { b.begun = takeSample(usage) }

// Finish says that all steps are done. Only the first call counts.
func (b *Build) Finish() {
	b.once.Do(func() { b.ended = takeSample(b.begun.CPU != nil) })
}

// facts are what both versions tell.
type facts struct {
	Provenance
	config     ConfigSource
	request    Parameters
	materials  []material
	build      *config
	platform   string // that the result is for
	dockerfile string // version
	env        map[string]any

	id                string
	started, finished time.Time
	wholeRequest      bool
	wholeMaterials    bool
	hermetic          bool
	metadata          metadata
}

// metadata is BuildKit's extension.
type metadata struct {
	VCS    map[string]string                  `json:"vcs,omitempty"`
	Source *origin                            `json:"source,omitempty"`
	Layers map[string][][]ocispecs.Descriptor `json:"layers,omitempty"`
	Usage  []*sample                          `json:"sysUsage,omitempty"`
}

// Predicate writes the provenance of c, as JSON.
func (b *Build) Predicate(ctx context.Context, c *Capture, o Provenance) ([]byte, error) {
	f, err := b.facts(ctx, c, o)
	if err != nil {
		return nil, err
	}
	var v any
	switch o.Version {
	case V1:
		v = f.v1()
	case V02:
		v = f.v02()
	default:
		return nil, fmt.Errorf("invalid provenance SLSA version: %s", o.Version)
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode provenance: %w", err)
	}
	return out, nil
}

func (b *Build) facts(ctx context.Context, c *Capture, o Provenance) (*facts, error) {
	b.Finish()
	end := b.ended
	f := &facts{
		Provenance: o, platform: c.platform, env: b.Env, id: b.ID, started: b.begun.Timestamp, finished: end.Timestamp,
		wholeRequest: c.request.Frontend != "", wholeMaterials: len(c.locals) == 0,
	}
	f.hermetic = f.wholeMaterials && !c.network
	if o.Usage {
		f.metadata.Usage = []*sample{b.begun, end}
	}
	var err error
	if f.materials, err = c.materials(); err != nil {
		return nil, err
	}
	b.tellRequest(f, c)
	if o.Minimal {
		return f, nil
	}
	if f.build, err = newConfig(c.def); err != nil || f.build == nil {
		return f, err
	}
	if f.metadata.Source, err = f.build.origin(c.def.Source); err != nil {
		return nil, err
	}
	if b.Layers != nil {
		f.metadata.Layers = b.Layers.layers(ctx, c, f.build)
	}
	return f, nil
}

// tellRequest tells what was asked for.
func (b *Build) tellRequest(f *facts, c *Capture) {
	i := invocation(c.request.Frontend, c.request.Args, c.sources)
	f.config, f.request = i.ConfigSource, *i.Request
	f.request.Args, f.metadata.VCS = split(f.request.Args)
	f.request.Inputs, f.request.Root = c.request.Inputs, c.request.Root
	f.request.Secrets, f.request.SSH = c.secrets, c.ssh
	f.request.CompatibilityVersion = b.CompatibilityVersion
	if f.request.Frontend == "dockerfile.v0" {
		f.dockerfile = b.DockerfileVersion
	}
	if f.Minimal {
		var left bool
		f.request, left = f.request.minimal()
		f.wholeRequest = f.wholeRequest && !left
	}
	locals := c.locals
	if c.context != "" && !slices.Contains(locals, c.context) {
		locals = slices.Sorted(slices.Values(append(slices.Clone(locals), c.context)))
	}
	for _, name := range locals {
		f.request.Locals = append(f.request.Locals, Local{name})
	}
}

// surroundings returns the daemon's own fields with more of this build.
func (f *facts) surroundings(more map[string]any) map[string]any {
	out := map[string]any{}
	maps.Copy(out, f.env)
	maps.Copy(out, more)
	if f.dockerfile != "" {
		out["dockerfileVersion"] = f.dockerfile
	}
	return out
}

func builderPlatform() string {
	return platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
}

// Check returns an error if o wants all sources to be known and they are not.
func (o Provenance) Check(c *Capture) error {
	if !o.Complete || len(c.locals) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("provenance materials are incomplete\n\n" +
		"The build requested complete provenance materials, but not all dependencies could be captured.\n\n" +
		"Uncaptured local sources:")
	var details []*errdefs.ProvenanceMaterialIncomplete
	for _, name := range slices.Sorted(slices.Values(c.locals)) {
		fmt.Fprintf(&b, "\n  - %s\n    reason: local_source", name)
		details = append(details, &errdefs.ProvenanceMaterialIncomplete{Name: name, Reason: "local_source"})
	}
	return errdefs.WithProvenanceMaterialsIncomplete(fmt.Errorf("%s", b.String()), details)
}
