package gitref

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// apply sets what the query of the URL asks for. What the fragment said already must not be contradicted.
func (r *Ref) apply(query url.Values) error {
	// A fixed order, so that of two faults always the same one is named.
	for _, key := range slices.Sorted(maps.Keys(query)) {
		values := query[key]
		if len(values) > 1 {
			return fmt.Errorf("query %q has multiple values", key)
		}
		if err := r.set(key, values[0]); err != nil {
			return err
		}
	}
	branch, tag := query.Get("branch"), query.Get("tag")
	if branch != "" && tag != "" {
		return errors.New("branch conflicts with tag: name one of them")
	}
	if err := r.setRef("refs/heads/", branch); err != nil {
		return err
	}
	return r.setRef("refs/tags/", tag)
}

func (r *Ref) set(key, value string) (err error) {
	switch key {
	case "keep-git-dir":
		r.KeepGitDir, err = flag(key, value)
		return err
	case "submodules":
		r.Submodules, err = flag(key, value)
		return err
	case "fetch-by-commit":
		on, err := flag(key, value)
		r.FetchByCommit = err == nil && *on
		return err
	}
	if value == "" {
		return fmt.Errorf("query %q has no value", key)
	}
	switch key {
	case "branch", "tag":
		return nil // apply sets them, after ref
	case "ref":
		return merge("ref", &r.Ref, value)
	case "subdir":
		return merge("subdir", &r.SubDir, value)
	case "checksum", "commit":
		return merge("checksum", &r.Checksum, value)
	case "mtime":
		if value != "checkout" && value != "commit" {
			return fmt.Errorf(`invalid mtime value: %q (must be "checkout" or "commit")`, value)
		}
		r.MTime = value
		return nil
	default:
		return fmt.Errorf("unexpected query %q: want ref, branch, tag, subdir, checksum, commit, keep-git-dir, submodules, mtime or fetch-by-commit", key)
	}
}

func (r *Ref) setRef(prefix, name string) error {
	if name == "" {
		return nil
	}
	if !strings.HasPrefix(name, prefix) {
		name = prefix + name
	}
	return merge("ref", &r.Ref, name)
}

func merge(what string, field *string, value string) error {
	if *field != "" && *field != value {
		return fmt.Errorf("%s conflicts: %q vs %q", what, *field, value)
	}
	*field = value
	return nil
}

// flag reads a switch; its bare name means on.
func flag(key, value string) (*bool, error) {
	on := true
	if value != "" {
		var err error
		if on, err = strconv.ParseBool(value); err != nil {
			return nil, fmt.Errorf("invalid %s value: %q (must be true or false)", key, value)
		}
	}
	return &on, nil
}
