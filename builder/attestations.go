package builder

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/buildd/buildd/builder/attest"
	"github.com/buildd/buildd/builder/export"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/frontend/sbom"
	"github.com/buildd/buildd/solver"
	"github.com/containerd/platforms"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Attested is a provenance for the records of builds.
type Attested struct {
	// Platform is the frontend's name for the platform; "" if its result is not
	// by platform.
	Platform      string
	PredicateType string
	Predicate     func(context.Context) ([]byte, error)
}

// attestations are what one build is to attest to.
type attestations struct {
	asked attest.Options
	call  *attest.Call
	build *attest.Build

	mu     sync.Mutex // guards layers
	layers map[cache.LayerID]*ocispecs.Descriptor
}

func (b *Builder) newAttestations(req *control.SolveRequest) (*attestations, error) {
	asked, err := attest.Parse(req.FrontendAttrs)
	if err != nil {
		return nil, err
	}
	a := &attestations{
		asked: asked, layers: map[cache.LayerID]*ocispecs.Descriptor{},
		call: b.producers.NewCall(attest.Request{Frontend: req.Frontend, Args: req.FrontendAttrs, Inputs: req.FrontendInputs}),
		build: &attest.Build{
			ID: strings.ToLower(rand.Text()), Env: b.ProvenanceEnv, DockerfileVersion: b.DockerfileVersion,
			CompatibilityVersion: int(req.CompatibilityVersion),
		},
	}
	a.build.Begin(asked.Provenance != nil && asked.Provenance.Usage)
	return a, nil
}

// attest adds to in what the result attests to, and what the client asked for
// beside that. It returns the provenance for the build's record.
func (j *job) attest(ctx context.Context, res *gwclient.Result, in *export.Input) ([]Attested, error) {
	if res == nil {
		return nil, nil
	}
	all, err := platformsOf(res)
	if err != nil {
		return nil, err
	}
	j.attests.build.Finish()
	captures, err := j.attests.call.Captures(res, all)
	if err != nil {
		return nil, err
	}
	if len(in.Platforms) > 0 { // there is an exporter
		if err := j.scan(ctx, res, all); err != nil {
			return nil, err
		}
		if in.Attestations, err = ofFrontend(ctx, res); err != nil {
			return nil, err
		}
		if err := j.addProvenance(in, captures); err != nil {
			return nil, err
		}
	}
	var out []Attested
	o := attest.Recorded(j.attests.asked)
	for id, c := range captures {
		out = append(out, Attested{Platform: id, PredicateType: o.PredicateType(), Predicate: j.predicate(c, o)})
	}
	return out, nil
}

func platformsOf(res *gwclient.Result) ([]attest.Platform, error) {
	ps, err := exptypes.ParsePlatforms(res.Metadata)
	if err != nil {
		return nil, fmt.Errorf("read platforms of the result: %w", err)
	}
	var out []attest.Platform
	for _, p := range ps.Platforms {
		out = append(out, attest.Platform{ID: p.ID, Platform: p.Platform})
	}
	return out, nil
}

func (j *job) predicate(c *attest.Capture, o attest.Provenance) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) { return j.attests.build.Predicate(ctx, c, o) }
}

// addProvenance adds the provenance that the client asked for. A result without
// files has none.
func (j *job) addProvenance(in *export.Input, captures map[string]*attest.Capture) error {
	o := j.attests.asked.Provenance
	if o == nil {
		return nil
	}
	for _, p := range in.Platforms {
		c := captures[p.ID]
		if c == nil {
			c = captures[""]
		}
		if c == nil {
			continue
		}
		if err := o.Check(c); err != nil {
			return err
		}
		in.Attestations[p.ID] = append(in.Attestations[p.ID], export.Attestation{
			Kind: gwpb.AttestationKind_InToto,
			Path: o.Filename,
			Metadata: map[string][]byte{
				"reason":                     []byte("provenance"),
				export.AttestationInlineOnly: []byte(strconv.FormatBool(o.InlineOnly)),
			},
			PredicateType: o.PredicateType(),
			Content:       j.predicate(c, *o),
		})
	}
	return nil
}

// ofFrontend returns the attestations that came with a result, with what they
// are made of solved.
func ofFrontend(ctx context.Context, res *gwclient.Result) (map[string][]export.Attestation, error) {
	var mu sync.Mutex // guards what is in out
	out := map[string][]export.Attestation{}
	eg, ctx := errgroup.WithContext(ctx)
	for id, as := range res.Attestations {
		out[id] = make([]export.Attestation, len(as))
		for i, a := range as {
			eg.Go(func() error {
				x := export.Attestation{Kind: a.Kind, Metadata: a.Metadata, Path: a.Path, Content: a.ContentFunc, PredicateType: a.InToto.PredicateType}
				for _, s := range a.InToto.Subjects {
					x.Subjects = append(x.Subjects, export.Subject{Kind: s.Kind, Name: s.Name, Digest: s.Digest})
				}
				if a.Ref != nil {
					t, err := treeOf(ctx, a.Ref)
					if err != nil {
						return err
					}
					x.Tree = &t
				}
				mu.Lock()
				defer mu.Unlock()
				out[id][i] = x
				return nil
			})
		}
	}
	return out, eg.Wait()
}

// scan adds the bill of materials that the client asked for, unless the
// frontend has made one.
func (j *job) scan(ctx context.Context, res *gwclient.Result, all []attest.Platform) error {
	o := j.attests.asked.SBOM
	if o == nil || sbom.In(res) {
		return nil
	}
	c := j.build.Client(j.req.FrontendAttrs, nil).Apart()
	mode, ok := j.req.FrontendAttrs["image-resolve-mode"]
	if !ok {
		mode = llb.ResolveModeDefault.String()
	}
	s, err := sbom.Find(ctx, c, *o, j.native(), mode)
	if err != nil {
		return err
	}
	stages, noCache := j.req.FrontendAttrs["no-cache"]
	for _, p := range all {
		ref := res.Ref
		if res.Refs != nil {
			ref = res.Refs[p.ID]
		}
		if ref == nil {
			continue
		}
		core, err := ref.ToState()
		if err != nil {
			return err
		}
		def, err := s.Scan(p.ID, core, nil, noCache && stages == "").Marshal(ctx)
		if err != nil {
			return err
		}
		scanned, err := c.Solve(ctx, gwclient.SolveRequest{Definition: def.ToPB()})
		if err != nil {
			return err
		}
		res.AddAttestation(p.ID, sbom.Attestation(scanned.Ref))
	}
	return nil
}

// native is the platform that steps run on as they are.
func (j *job) native() ocispecs.Platform {
	for _, w := range j.b.Bridge.Workers {
		if len(w.Platforms) > 0 {
			return w.Platforms[0]
		}
	}
	return platforms.Normalize(platforms.DefaultSpec())
}

// layers implements attest.Layers.
func (j *job) layers(ctx context.Context, e solver.Edge) []ocispecs.Descriptor {
	t, err := j.build.Solve.Known(ctx, e)
	if err != nil {
		return nil
	}
	infos, err := j.b.Trees.Layers(t)
	if err != nil {
		return nil
	}
	var out []ocispecs.Descriptor
	for _, l := range infos {
		d := j.knownBlob(ctx, l.ID)
		if d == nil {
			return nil
		}
		out = append(out, *d)
	}
	return out
}

// knownBlob is asked for the same layers by every step that is built on them. One
// that is not known may become so.
func (j *job) knownBlob(ctx context.Context, id cache.LayerID) *ocispecs.Descriptor {
	a := j.attests
	a.mu.Lock()
	defer a.mu.Unlock()
	if d, ok := a.layers[id]; ok {
		return d
	}
	found, err := j.b.Trees.KnownBlob(ctx, id)
	if err != nil {
		return nil
	}
	a.layers[id] = &found
	return &found
}
