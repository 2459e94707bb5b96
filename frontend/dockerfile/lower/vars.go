package lower

import (
	"maps"
	"slices"
	"strings"
)

// vars are variables in the order in which they were first set. The expansion of words reads them (shell.EnvGetter).
//
// The environment of a stage is kept here and not read back from its llb.State, which would walk all that the stage did so far
// for every word.
type vars struct {
	keys   []string
	values map[string]string
	size   int // bytes of all keys and values
}

func newVars() *vars { return &vars{values: map[string]string{}} }

func (v *vars) Get(key string) (string, bool) {
	s, ok := v.values[key]
	return s, ok
}

func (v *vars) Keys() []string { return v.keys }

func (v *vars) set(key, value string) {
	old, ok := v.values[key]
	if !ok {
		v.keys = append(v.keys, key)
		v.size += len(key)
	}
	v.size += len(value) - len(old)
	v.values[key] = value
}

func (v *vars) remove(key string) {
	if old, ok := v.values[key]; ok {
		v.size -= len(key) + len(old)
		delete(v.values, key)
		v.keys = slices.DeleteFunc(slices.Clone(v.keys), func(k string) bool { return k == key })
	}
}

func (v *vars) clone() *vars {
	return &vars{keys: slices.Clone(v.keys), values: maps.Clone(v.values), size: v.size}
}

// overlay hides variables of an environment behind others, as masks of secrets do.
type overlay struct {
	over  *vars
	below *vars
}

func (o overlay) Get(key string) (string, bool) {
	if s, ok := o.over.Get(key); ok {
		return s, true
	}
	return o.below.Get(key)
}

func (o overlay) Keys() []string {
	keys := slices.Clone(o.below.Keys())
	for _, k := range o.over.Keys() {
		if _, ok := o.below.Get(k); !ok {
			keys = append(keys, k)
		}
	}
	return keys
}

// setConfigEnv sets a variable in the form that an image config has, where it keeps its place if it is there already.
func setConfigEnv(env []string, key, value string) []string {
	kv := key + "=" + value
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}
