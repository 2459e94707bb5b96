package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Scheme is that of the identifiers, docker-image://REF.
const Scheme = "docker-image"

// Trees is what the Source needs of tree.Store.
type Trees interface {
	AddImage(ctx context.Context, chain []tree.ImageLayer) (cache.Tree, error)
}

// Names is buildd's own image store. Get returns cache.ErrNotFound, possibly
// wrapped, for a name that it does not hold.
type Names interface {
	Get(ctx context.Context, name string) (ocispecs.Descriptor, error)
}

// Config is what New needs.
type Config struct {
	Trees Trees
	// Blobs keeps manifests and configs, and holds the blobs of the own images.
	Blobs content.Store
	// Names is the own image store; nil is an empty one.
	Names Names
	Hosts *registry.Hosts
	// Platform is that of requests without one; nil is this machine's.
	Platform *ocispecs.Platform
}

// Source is the source of images.
type Source struct {
	c Config
}

// New returns a Source.
func New(c Config) *Source {
	if c.Platform == nil {
		p := platforms.DefaultSpec()
		c.Platform = &p
	}
	return &Source{c: c}
}

// Schemes is docker-image.
func (s *Source) Schemes() []string { return []string{Scheme} }

// Options say how ResolveConfig goes about it.
type Options struct {
	// Platform is nil for the worker's own.
	Platform *ocispecs.Platform
	// Mode is a value of the attribute image.resolvemode; "" is default.
	Mode string
	Memo *source.Memo
}

// Resolved is an image that was found.
type Resolved struct {
	Image
	// Ref is the normalised reference that was asked for.
	Ref string
	// Digest is Root's: what pins Ref for every platform.
	Digest digest.Digest
	// Local says that the own image store had it.
	Local bool
}

// ResolveConfig finds the image ref and reads its configuration.
func (s *Source) ResolveConfig(ctx context.Context, c session.Client, ref string, o Options) (*Resolved, error) {
	named, err := parse(ref)
	if err != nil {
		return nil, err
	}
	mode, err := parseMode(o.Mode)
	if err != nil {
		return nil, err
	}
	if o.Platform == nil {
		o.Platform = s.c.Platform
	}
	l := &lookup{s: s, client: c, named: named, mode: mode, platform: platforms.Normalize(*o.Platform), memo: o.Memo}
	return l.find(ctx)
}

// Pin resolves the reference and reads the manifest and config.
func (s *Source) Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error) {
	a, err := parseAttrs(r.Attrs)
	if err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	o := Options{Mode: a.mode, Memo: r.Memo}
	if r.Platform != nil {
		p := r.Platform.Spec()
		o.Platform = &p
	}
	done := report(r.Progress, "resolve "+r.Ref())
	found, err := s.ResolveConfig(ctx, c, r.Ref(), o)
	done()
	if err != nil {
		return source.Pin{}, err
	}
	if a.checksum != "" && found.Digest != a.checksum {
		return source.Pin{}, fmt.Errorf("image %s has digest %s, but %s was asked for", found.Ref, found.Digest, a.checksum)
	}
	layers, err := Limit(found.Layers, a.limit)
	if err != nil {
		return source.Pin{}, fmt.Errorf("image %s: %w", found.Ref, err)
	}
	return PinChain(ctx, s.c.Trees, r, found.pinned(), layers, found.Ref)
}

// PinChain is NewPin, and tells the tree store that the blobs can be had from
// here too: the step that makes the tree may be cached, and where its layers came
// from the last time may be gone.
func PinChain(ctx context.Context, t Trees, r source.Request, resolved string, layers []tree.ImageLayer, from string) (source.Pin, error) {
	p, err := NewPin(r, resolved, layers, from)
	if err != nil {
		return p, err
	}
	p.Tree, err = AddChain(ctx, t, p)
	return p, err
}

func report(progress func(solver.Status), id string) (done func()) {
	if progress == nil {
		return func() {}
	}
	st := solver.Status{ID: id, Started: time.Now()}
	progress(st)
	return func() {
		st.Completed = time.Now()
		progress(st)
	}
}

// pinned is the reference with the digest.
func (r *Resolved) pinned() string {
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return r.Ref
	}
	if _, ok := named.(reference.Digested); ok {
		return r.Ref
	}
	return r.Ref + "@" + r.Digest.String()
}

// NewPin returns the pin of a chain of layers, whose blobs can be had from
// source. Its key is the chain of diff IDs and nothing else: whichever manifest
// names them, and however they are compressed, the files are the same, and the
// tree store verifies that they are.
func NewPin(r source.Request, resolved string, layers []tree.ImageLayer, from string) (source.Pin, error) {
	ids := make([][]byte, len(layers))
	for i := range layers {
		layers[i].Source = from
		ids[i] = []byte(layers[i].DiffID)
	}
	state, err := json.Marshal(layers)
	if err != nil {
		return source.Pin{}, fmt.Errorf("pin %s: %w", r.Identifier, err)
	}
	return source.Pin{
		Request:  r,
		Key:      cache.Hash("image", ids...).String(),
		Resolved: resolved,
		State:    state,
	}, nil
}

// Limit returns the n lowest layers; 0 is all of them.
func Limit(layers []tree.ImageLayer, n int) ([]tree.ImageLayer, error) {
	if n == 0 {
		return layers, nil
	}
	if n > len(layers) {
		return nil, fmt.Errorf("layer limit %d: it has only %d layers", n, len(layers))
	}
	return layers[:n], nil
}

// Fetch tells the tree store of the chain. Nothing is downloaded.
func (s *Source) Fetch(ctx context.Context, _ session.Client, p source.Pin, _ func(solver.Status)) (cache.Tree, error) {
	return AddChain(ctx, s.c.Trees, p)
}

// AddChain makes the tree of a pin that NewPin made.
func AddChain(ctx context.Context, t Trees, p source.Pin) (cache.Tree, error) {
	var layers []tree.ImageLayer
	if err := json.Unmarshal(p.State, &layers); err != nil {
		return "", fmt.Errorf("read pin of %s: %w", p.Request.Identifier, err)
	}
	if len(layers) == 0 {
		return "", nil
	}
	out, err := t.AddImage(ctx, layers)
	if err != nil {
		return "", fmt.Errorf("add image %s: %w", p.Resolved, err)
	}
	return out, nil
}

// Describe returns the digest and the config, and the attestations if asked to.
func (s *Source) Describe(ctx context.Context, c session.Client, r source.Request, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	a, err := parseAttrs(r.Attrs)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", r.Identifier, err)
	}
	opt := o.ImageOpt
	if opt == nil {
		opt = &sourceresolver.ResolveImageOpt{}
	}
	ro := Options{Platform: opt.Platform, Mode: opt.ResolveMode, Memo: r.Memo}
	if ro.Mode == "" {
		ro.Mode = a.mode
	}
	if ro.Platform == nil && r.Platform != nil {
		p := r.Platform.Spec()
		ro.Platform = &p
	}
	found, err := s.ResolveConfig(ctx, c, r.Ref(), ro)
	if err != nil {
		return nil, err
	}
	out := &sourceresolver.ResolveImageResponse{Digest: found.Digest}
	if !opt.NoConfig {
		out.Config = found.Config
	}
	if opt.AttestationChain || len(opt.ResolveAttestations) > 0 {
		if out.AttestationChain, err = s.attestations(ctx, c, found, opt.ResolveAttestations); err != nil {
			return nil, fmt.Errorf("read attestations of %s: %w", found.Ref, err)
		}
	}
	return &sourceresolver.MetaResponse{Op: r.Op(), Image: out}, nil
}

func parse(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w: want [HOST/]NAME[:TAG][@sha256:DIGEST]", ref, err)
	}
	return reference.TagNameOnly(named), nil
}

// isNotFound tells whether the own image store does not know a name.
func isNotFound(err error) bool { return errors.Is(err, cache.ErrNotFound) }
