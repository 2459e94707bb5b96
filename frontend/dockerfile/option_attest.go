package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/tonistiigi/go-csvvalue"
)

const (
	prefixAttest    = "attest:"
	prefixAttestArg = prefixBuildArg + "BUILDKIT_ATTEST_"

	// defaultScanner is what BuildKit takes, so that the same command line gives the same attestation.
	defaultScanner = "docker/buildkit-syft-scanner:stable-1"
)

// sbomOptions say who writes the software bill of materials.
type sbomOptions struct {
	scanner string            // image reference, in full
	params  map[string]string // handed to it as BUILDKIT_SCAN_name
}

// sbom reads `attest:sbom` (or the build argument BUILDKIT_ATTEST_SBOM); nil if none is asked for. Provenance is not the
// frontend's to make: only its name is known here.
func (p *optionParser) sbom() *sbomOptions {
	var out *sbomOptions
	for _, key := range slices.Sorted(maps.Keys(p.raw)) {
		kind, ok := strings.CutPrefix(key, prefixAttest)
		if !ok {
			kind, ok = strings.CutPrefix(key, prefixAttestArg)
		}
		if !ok || p.err != nil {
			continue
		}
		switch strings.ToLower(kind) {
		case "provenance":
		case "sbom":
			o, err := parseSBOM(p.raw[key])
			if err != nil {
				p.err = optionError(key, p.raw[key], "generator=IMAGE and NAME=VALUE for it, with commas between", err)
			}
			out = o
		default:
			p.err = fmt.Errorf("option %s: unknown attestation type %q: want sbom or provenance", key, kind)
		}
	}
	return out
}

func parseSBOM(v string) (*sbomOptions, error) {
	scanner, params := defaultScanner, map[string]string{}
	if v != "" {
		fields, err := csvvalue.Fields(v, nil)
		if err != nil {
			return nil, err
		}
		for _, f := range fields {
			name, value, _ := strings.Cut(f, "=")
			if name == "generator" {
				scanner = value
			} else {
				params[name] = value
			}
		}
	}
	if scanner == "" {
		return nil, errors.New("generator is empty")
	}
	ref, err := reference.ParseNormalizedNamed(scanner)
	if err != nil {
		return nil, fmt.Errorf("generator %q: %w", scanner, err)
	}
	return &sbomOptions{scanner: reference.TagNameOnly(ref).String(), params: params}, nil
}
