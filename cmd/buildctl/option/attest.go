package option

import (
	"fmt"
	"strconv"
	"strings"
)

// Attestations reads the values of --attest, --provenance and --sbom and returns
// frontend options. Of each kind the last one counts.
func Attestations(attest []string, provenance, sbom string) (map[string]string, error) {
	if provenance != "" {
		attest = append(attest, attestation("provenance", provenance))
	}
	if sbom != "" {
		attest = append(attest, attestation("sbom", sbom))
	}
	out := map[string]string{}
	for _, s := range attest {
		fs, err := fields(s)
		if err != nil {
			return nil, err
		}
		kind, off := "", false
		var rest []string
		for _, f := range fs {
			switch f.key {
			case "type":
				kind = f.value
			case "disabled":
				if off, err = strconv.ParseBool(f.value); err != nil {
					return nil, fmt.Errorf("%q: disabled=%s: want true or false", s, f.value)
				}
			default:
				rest = append(rest, quote(f.raw)) // a scanner may tell PARAM from param
			}
		}
		if kind != "provenance" && kind != "sbom" {
			return nil, fmt.Errorf("%q: type %q: want type=provenance or type=sbom", s, kind)
		}
		if off {
			delete(out, "attest:"+kind)
			continue
		}
		out["attest:"+kind] = strings.Join(rest, ",")
	}
	return out, nil
}

// attestation gives the short form of a kind's own flag the form of --attest.
func attestation(kind, v string) string {
	if on, err := strconv.ParseBool(v); err == nil {
		return fmt.Sprintf("type=%s,disabled=%t", kind, !on)
	}
	if kind == "sbom" && !strings.Contains(v, "=") {
		v = "generator=" + v
	}
	return "type=" + kind + "," + v
}

// quote protects a field of a CSV value.
func quote(s string) string {
	if !strings.ContainsAny(s, `,"`) {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}
