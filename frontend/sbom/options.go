package sbom

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/tonistiigi/go-csvvalue"
)

// DefaultScanner is what BuildKit takes, so that the same command line gives the
// same attestation.
const DefaultScanner = "docker/buildkit-syft-scanner:stable-1"

// Options say who writes the bill of materials.
type Options struct {
	Scanner string            // image reference, in full
	Params  map[string]string // handed to it as BUILDKIT_SCAN_name
}

// Parse reads the value of attest:sbom: generator=IMAGE and NAME=VALUE for it,
// with commas between.
func Parse(v string) (*Options, error) {
	scanner, params := DefaultScanner, map[string]string{}
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
		return nil, errors.New("sbom generator cannot be empty")
	}
	ref, err := reference.ParseNormalizedNamed(scanner)
	if err != nil {
		return nil, fmt.Errorf("sbom generator %q: %w", scanner, err)
	}
	return &Options{Scanner: reference.TagNameOnly(ref).String(), Params: params}, nil
}
