package dockerfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/frontend/sbom"
)

const (
	prefixAttest    = "attest:"
	prefixAttestArg = prefixBuildArg + "BUILDKIT_ATTEST_"
)

// sbom reads `attest:sbom` (or the build argument BUILDKIT_ATTEST_SBOM); nil if none is asked for. Provenance is not the
// frontend's to make: only its name is known here.
func (p *optionParser) sbom() *sbom.Options {
	var out *sbom.Options
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
			o, err := sbom.Parse(p.raw[key])
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
