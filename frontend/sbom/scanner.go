package sbom

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
)

// PredicateType is the in-toto predicate type of SPDX documents.
const PredicateType = "https://spdx.dev/Document"

const (
	scanSource = "/run/src"
	scanOut    = "/run/out/"
	scanCore   = "sbom"
)

// Scanner is an image that scans when it is run.
type Scanner struct {
	image    string // reference by digest
	config   ocispecs.ImageConfig
	platform ocispecs.Platform
	params   map[string]string
}

// Find looks up the image of the scanner, to be run on p. mode is an
// image-resolve-mode.
func Find(ctx context.Context, r sourceresolver.MetaResolver, o Options, p ocispecs.Platform, mode string) (*Scanner, error) {
	ref, _, config, err := sourceresolver.NewImageMetaResolver(r).ResolveImageConfig(ctx, o.Scanner, sourceresolver.Opt{
		LogName:  "[internal] load metadata for " + o.Scanner,
		ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p, ResolveMode: mode},
	})
	if err != nil {
		return nil, fmt.Errorf("find sbom scanner %s: %w", o.Scanner, err)
	}
	var img ocispecs.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("parse config of sbom scanner %s: %w", ref, err)
	}
	s := &Scanner{image: ref, config: img.Config, platform: p, params: o.Params}
	if len(s.args()) == 0 {
		return nil, fmt.Errorf("sbom scanner %s has no entrypoint and no command: want an image that scans when it is run", ref)
	}
	return s, nil
}

func (s *Scanner) args() []string { return slices.Concat(s.config.Entrypoint, s.config.Cmd) }

// Scan returns what the scanner writes about core, the files of the image name,
// and about what else of its build is to be scanned.
func (s *Scanner) Scan(name string, core llb.State, extras map[string]llb.State, noCache bool) llb.State {
	coreDir, extrasDir := path.Join(scanSource, "core", scanCore), path.Join(scanSource, "extras")
	opts := []llb.RunOption{
		llb.WithCustomName(fmt.Sprintf("[%s] generating sbom using %s", name, s.image)),
		llb.Dir(s.config.WorkingDir),
		llb.Args(s.args()),
		llb.AddMount(coreDir, core, llb.Readonly),
		llb.AddMount("/tmp", llb.Scratch(), llb.Tmpfs()),
	}
	if noCache {
		opts = append(opts, llb.IgnoreCache)
	}
	for _, e := range s.config.Env {
		k, v, _ := strings.Cut(e, "=")
		opts = append(opts, llb.AddEnv(k, v))
	}
	opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_DESTINATION", scanOut), llb.AddEnv("BUILDKIT_SCAN_SOURCE", coreDir))
	if len(extras) > 0 {
		opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_SOURCE_EXTRAS", extrasDir))
	}
	for _, k := range slices.Sorted(maps.Keys(s.params)) {
		opts = append(opts, llb.AddEnv("BUILDKIT_SCAN_"+k, s.params[k]))
	}
	for _, extra := range slices.Sorted(maps.Keys(extras)) {
		opts = append(opts, llb.AddMount(path.Join(extrasDir, scanCore+"-"+extra), extras[extra], llb.Readonly))
	}
	return llb.Image(s.image, llb.Platform(s.platform)).Run(opts...).AddMount(scanOut, llb.Scratch())
}

// Attestation returns what ref, a scan that was solved, attests.
func Attestation(ref gwclient.Reference) gwclient.Attestation {
	a := gwclient.Attestation{
		Kind: gwpb.AttestationKind_Bundle,
		Ref:  ref,
		// These keys are read by exporters.
		Metadata: map[string][]byte{"reason": []byte("sbom"), "sbom-core": []byte(scanCore)},
	}
	a.InToto.PredicateType = PredicateType
	return a
}

// In tells whether a result has a bill of materials already.
func In(res *gwclient.Result) bool {
	for _, as := range res.Attestations {
		if slices.ContainsFunc(as, func(a gwclient.Attestation) bool { return a.InToto.PredicateType == PredicateType }) {
			return true
		}
	}
	return false
}
