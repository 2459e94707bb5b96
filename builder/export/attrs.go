package export

import (
	"fmt"
	"maps"
	"strconv"

	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
)

// attrs is a list of attributes from which exporters take those that they know.
type attrs map[string]string

func newAttrs(m map[string]string) attrs {
	a := attrs(maps.Clone(m))
	if a == nil {
		a = attrs{}
	}
	return a
}

func (a attrs) take(key string) (string, bool) {
	v, ok := a[key]
	delete(a, key)
	return v, ok
}

// flag reads key as a bool into dst and tells whether it was there. An
// attribute without value is true, as in "--output type=image,push".
func (a attrs) flag(key string, dst *bool) (bool, error) {
	v, ok := a.take(key)
	if !ok {
		return false, nil
	}
	if v == "" {
		*dst = true
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return true, fmt.Errorf("non-bool value specified for %s: %q, want true or false", key, v)
	}
	*dst = b
	return true, nil
}

// flags reads several bools.
func (a attrs) flags(dst map[string]*bool) error {
	for key, b := range dst {
		if _, err := a.flag(key, b); err != nil {
			return err
		}
	}
	return nil
}

// optional reads a bool that differs when it is not there.
func (a attrs) optional(key string) (*bool, error) {
	var b bool
	ok, err := a.flag(key, &b)
	if !ok || err != nil {
		return nil, err
	}
	return &b, nil
}

func (a attrs) epoch() (epoch, error) {
	key := string(commonexptypes.OptKeySourceDateEpoch)
	v, ok := a.take(key)
	if !ok {
		return epoch{}, nil
	}
	t, err := parseEpoch(v)
	if err != nil {
		return epoch{}, fmt.Errorf("invalid %s: %w", key, err)
	}
	return epoch{set: true, value: t}, nil
}
