package option

import (
	"fmt"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// field is one part of a value such as "type=local,dest=out".
type field struct {
	key, value string
	set        bool // there is an equals sign
	raw        string
}

func fields(s string) ([]field, error) {
	parts, err := csvvalue.Fields(s, nil)
	if err != nil {
		return nil, fmt.Errorf("%q: %w: want KEY=VALUE,..., a value with a comma in double quotes", s, err)
	}
	out := make([]field, len(parts))
	for i, p := range parts {
		f := &out[i]
		f.raw = p
		f.key, f.value, f.set = strings.Cut(p, "=")
		f.key = strings.ToLower(strings.TrimSpace(f.key))
	}
	return out, nil
}

// typed reads a value with a type and attributes; a field without an equals sign
// is one that is true.
func typed(s string) (kind string, attrs map[string]string, err error) {
	fs, err := fields(s)
	if err != nil {
		return "", nil, err
	}
	attrs = map[string]string{}
	for _, f := range fs {
		switch {
		case f.key == "":
			return "", nil, fmt.Errorf("%q: a field has no name: want KEY=VALUE,...", s)
		case f.key == "type":
			kind = f.value
		case !f.set:
			attrs[f.key] = "true"
		default:
			attrs[f.key] = f.value
		}
	}
	return kind, attrs, nil
}

// Pairs reads values of the form KEY=VALUE.
func Pairs(values []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range values {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("%q: want KEY=VALUE", s)
		}
		out[k] = v
	}
	return out, nil
}
