package attest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/buildd/buildd/frontend/sbom"
	"github.com/tonistiigi/go-csvvalue"
)

// Options are the attestations that a client asks for.
type Options struct {
	SBOM       *sbom.Options // nil: none
	Provenance *Provenance   // nil: none
}

// Versions of SLSA provenance.
const (
	V1  = "v1"
	V02 = "v0.2"
)

// defaultFilename is what exporters of files call the provenance.
const defaultFilename = "provenance.json"

// Provenance says what a provenance is to tell.
type Provenance struct {
	Version  string // V1 or V02
	Filename string
	// Builder names this installation (builder-id).
	Builder string
	// Minimal leaves out the steps, the files that they came from and what may be
	// secret.
	Minimal bool
	// Reproducible is what the client claims.
	Reproducible bool
	// InlineOnly says that the provenance makes no sense without an image beside.
	InlineOnly bool
	// Complete refuses a build whose sources are not all known.
	Complete bool
	// Usage tells what resources the build took.
	Usage bool
}

// PredicateType is the in-toto predicate type.
func (p Provenance) PredicateType() string { return "https://slsa.dev/provenance/" + p.Version }

// Recorded is what history records keep. They take the builder from what the
// client asked for, and tell of resources if it asked for that.
func Recorded(o Options) Provenance {
	p := Provenance{Version: V1, Filename: defaultFilename}
	if o.Provenance != nil {
		p.Builder, p.Usage = o.Provenance.Builder, o.Provenance.Usage
	}
	return p
}

// Parse reads the options attest:sbom and attest:provenance, and the build
// arguments BUILDKIT_ATTEST_* that stand for them.
func Parse(opts map[string]string) (Options, error) {
	var out Options
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		kind, ok := strings.CutPrefix(key, "attest:")
		if !ok {
			kind, ok = strings.CutPrefix(key, "build-arg:BUILDKIT_ATTEST_")
		}
		if !ok {
			continue
		}
		switch kind = strings.ToLower(kind); kind {
		case "sbom":
			o, err := sbom.Parse(opts[key])
			if err != nil {
				return out, fmt.Errorf("failed to parse %s: %w", kind, err)
			}
			out.SBOM = o
		case "provenance":
			o, err := parseProvenance(opts[key])
			if err != nil {
				return out, fmt.Errorf("failed to parse %s: %w", kind, err)
			}
			out.Provenance = o
		default:
			return out, fmt.Errorf("unknown attestation type %q: want sbom or provenance", kind)
		}
	}
	return out, nil
}

func parseProvenance(v string) (*Provenance, error) {
	p := &Provenance{Version: V1, Filename: defaultFilename}
	if v == "" {
		return p, nil
	}
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return nil, err
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		if err := p.set(name, value); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *Provenance) set(name, v string) error {
	flags := map[string]*bool{
		"reproducible": &p.Reproducible, "inline-only": &p.InlineOnly, "complete-materials": &p.Complete, "capture-usage": &p.Usage,
	}
	switch name {
	case "version":
		if v == "" {
			return errors.New("provenance SLSA version cannot be empty")
		}
		if v != V1 && v != V02 {
			return fmt.Errorf("invalid provenance SLSA version: %s: want %s or %s", v, V1, V02)
		}
		p.Version = v
	case "mode":
		switch v {
		case "min":
			p.Minimal = true
		case "max", "full":
			p.Minimal = false
		default:
			return fmt.Errorf("invalid mode %q: want min or max", v)
		}
	case "builder-id":
		p.Builder = v
	case "filename":
		if v == "" || strings.ContainsRune(v, '/') {
			return fmt.Errorf("filename %q: want the name of a file, without a slash", v)
		}
		p.Filename = v
	case "reproducible", "inline-only", "complete-materials", "capture-usage":
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("failed to parse %s flag %q: want true or false", name, v)
		}
		*flags[name] = b
	}
	// Clients pass on what is for themselves, such as "disabled".
	return nil
}
