package digest

import (
	"fmt"

	"github.com/moby/patternmatcher"
)

// filter applies Include and Exclude while a directory is walked. It is not
// safe for concurrent use.
type filter struct {
	include, exclude *patternmatcher.PatternMatcher // nil where there is none
}

// match is what the patterns say about one path; that of a directory is needed
// for what is in it.
type match struct {
	selected         bool
	descend          bool // whether something below may be selected
	include, exclude patternmatcher.MatchInfo
}

func newFilter(s Select) (f filter, err error) {
	if len(s.Include) > 0 {
		if f.include, err = patternmatcher.New(s.Include); err != nil {
			return f, fmt.Errorf("include patterns %q: %w", s.Include, err)
		}
	}
	if len(s.Exclude) > 0 {
		if f.exclude, err = patternmatcher.New(s.Exclude); err != nil {
			return f, fmt.Errorf("exclude patterns %q: %w", s.Exclude, err)
		}
	}
	return f, nil
}

// all is the match of the selected path itself, to which patterns do not apply.
func (f filter) all() match { return match{selected: true, descend: true} }

// match tells about a path relative to the selected one; parent is the match of
// the directory that it lies in.
func (f filter) match(rel string, parent match) (match, error) {
	m := match{selected: true, descend: true}
	if f.include != nil {
		ok, info, err := f.include.MatchesUsingParentResults(rel, parent.include)
		if err != nil {
			return m, fmt.Errorf("match include patterns: %w", err)
		}
		m.selected, m.include = ok, info
	}
	if f.exclude != nil {
		ok, info, err := f.exclude.MatchesUsingParentResults(rel, parent.exclude)
		if err != nil {
			return m, fmt.Errorf("match exclude patterns: %w", err)
		}
		m.exclude = info
		if ok {
			m.selected = false
			m.descend = f.exclude.Exclusions() // "!": files below may be let in again
		}
	}
	return m, nil
}
