package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// The scanner protocol: https://github.com/moby/buildkit/blob/master/docs/attestations/sbom-protocol.md
const (
	scanSource   = "/run/src"
	scanOut      = "/run/out/"
	scanCore     = "sbom"
	spdxDocument = "https://spdx.dev/Document" // in-toto predicate type

	// Keys and values of an attestation's metadata, which exporters read.
	attestReason   = "reason"
	attestSBOMCore = "sbom-core"
)

// scanner runs an image over the files of a build, which describes them in SPDX documents.
type scanner struct {
	*gateway
	image    string // reference by digest
	config   ocispecs.ImageConfig
	platform ocispecs.Platform
	params   map[string]string
}

// newScanner finds the image of the scanner; nil if no bill of materials is asked for.
func (b *build) newScanner(ctx context.Context) (*scanner, error) {
	o := b.options.sbom
	if o == nil {
		return nil, nil
	}
	p := b.workerPlatform()
	ref, _, config, err := sourceresolver.NewImageMetaResolver(&b.sources).ResolveImageConfig(ctx, o.scanner, sourceresolver.Opt{
		LogName:  internalLog("load metadata for " + o.scanner),
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p, ResolveMode: b.options.resolveMode.String()},
	})
	if err != nil {
		return nil, fmt.Errorf("find sbom scanner %s: %w", o.scanner, err)
	}
	var img ocispecs.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("parse config of sbom scanner %s: %w", ref, err)
	}
	s := &scanner{gateway: b.gateway, image: ref, config: img.Config, platform: p, params: o.params}
	if len(s.args()) == 0 {
		return nil, fmt.Errorf("sbom scanner %s has no entrypoint and no command: want an image that scans when it is run", ref)
	}
	return s, nil
}

func (s *scanner) args() []string { return slices.Concat(s.config.Entrypoint, s.config.Cmd) }

// attest adds the documents about every image to res.
func (s *scanner) attest(ctx context.Context, res *gwclient.Result, images []*image) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, img := range images {
		group.Go(func() error {
			def, err := s.marshal(ctx, s.scan(img))
			if err != nil {
				return fmt.Errorf("marshal scan of image for %s: %w", img.platform.ID, err)
			}
			ref, err := s.solve(ctx, gwclient.SolveRequest{Definition: def.ToPB()})
			if err != nil {
				return fmt.Errorf("scan image for %s: %w", img.platform.ID, err)
			}
			a := gwclient.Attestation{
				Kind: gwpb.AttestationKind_Bundle,
				Ref:  ref,
				Metadata: map[string][]byte{
					attestReason:   []byte("sbom"),
					attestSBOMCore: []byte(scanCore),
				},
			}
			a.InToto.PredicateType = spdxDocument
			res.AddAttestation(img.platform.ID, a)
			return nil
		})
	}
	return group.Wait()
}

// scan returns what the scanner writes about an image and what else of its build is to be scanned.
func (s *scanner) scan(img *image) llb.State {
	core, extras := path.Join(scanSource, "core", scanCore), path.Join(scanSource, "extras")
	targets := img.lowered.Scan
	opts := []llb.RunOption{
		llb.WithCustomName(fmt.Sprintf("[%s] generating sbom using %s", img.platform.ID, s.image)),
		llb.Dir(s.config.WorkingDir),
		llb.Args(s.args()),
		llb.AddMount(core, targets.Core, llb.Readonly),
		llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()),
	}
	if img.lowered.NoCache {
		opts = append(opts, llb.IgnoreCache)
	}
	for _, e := range s.config.Env {
		k, v, _ := strings.Cut(e, "=")
		opts = append(opts, llb.AddEnv(k, v))
	}
	opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_DESTINATION", scanOut), llb.AddEnv("BUILDKIT_SCAN_SOURCE", core))
	if len(targets.Extras) > 0 {
		opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_SOURCE_EXTRAS", extras))
	}
	for _, k := range slices.Sorted(maps.Keys(s.params)) {
		opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_"+k, s.params[k]))
	}
	for _, name := range slices.Sorted(maps.Keys(targets.Extras)) {
		opts = append(opts, llb.AddMount(path.Join(extras, scanCore+"-"+name), targets.Extras[name], llb.Readonly))
	}
	return llb.Image(s.image, llb.Platform(s.platform)).Run(opts...).AddMount(scanOut, llb.Scratch())
}
