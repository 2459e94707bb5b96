package remotecache

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/layer"
)

// attrs is a list of attributes from which a type of cache takes those that it
// knows.
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

// text takes an attribute that defaults to something.
func (a attrs) text(key, otherwise string) string {
	if v, ok := a.take(key); ok && v != "" {
		return v
	}
	return otherwise
}

// flag takes a bool; an attribute without value is true.
func (a attrs) flag(key string, otherwise bool) (bool, error) {
	v, ok := a.take(key)
	if !ok {
		return otherwise, nil
	}
	if v == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("attribute %s: %q is no boolean: want true or false", key, v)
	}
	return b, nil
}

// number takes a number above 0.
func (a attrs) number(key string, otherwise int) (int, error) {
	v, ok := a.take(key)
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("attribute %s: %q is no number above 0", key, v)
	}
	return n, nil
}

func (a attrs) duration(key string, otherwise time.Duration) (time.Duration, error) {
	v, ok := a.take(key)
	if !ok {
		return otherwise, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("attribute %s: %q is no duration: want one such as 30s or 24h", key, v)
	}
	return d, nil
}

// compression takes what layer.ParseCompression reads.
func (a attrs) compression() (layer.Compression, error) {
	c, err := layer.ParseCompression(a)
	for _, k := range []string{"compression", "compression-level", "force-compression"} {
		a.take(k)
	}
	return c, err
}

// unknown says which attributes nobody took.
func (a attrs) unknown() string {
	if len(a) == 0 {
		return ""
	}
	return fmt.Sprintf("attributes that are not known are ignored: %s", strings.Join(slices.Sorted(maps.Keys(a)), ", "))
}
