package lower

import (
	"fmt"
	"maps"
	"slices"
)

// suggested adds what was probably meant to an error about a name that is not known.
func suggested(err error, name string, known []string) error {
	if err == nil {
		return nil
	}
	if m := nearest(name, known); m != "" {
		return fmt.Errorf("%w (did you mean %s?)", err, m)
	}
	return err
}

// suggestedAny is suggested for the first of several names for which there is something to suggest.
func suggestedAny(err error, names map[string]struct{}, known []string) error {
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if m := nearest(n, known); m != "" {
			return fmt.Errorf("%w (did you mean %s?)", err, m)
		}
	}
	return err
}

// nearest returns the one of known that is at most two edits away from name and nearest to it, "" if there is none. A name that
// is itself known was not mistyped.
func nearest(name string, known []string) string {
	best, dist := "", 3
	for _, k := range known {
		if k == name {
			return ""
		}
		if d := editDistance(name, k, dist); d < dist {
			best, dist = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's, or any number from limit upwards if it is not below limit. It looks only at how far apart two
// letters can be then, so it takes time in proportion to the length.
func editDistance(a, b string, limit int) int {
	ra, rb := []rune(a), []rune(b)
	if d := len(ra) - len(rb); d >= limit || -d >= limit {
		return limit
	}
	row := make([]int, len(rb)+1)
	for j := range row {
		row[j] = min(j, limit)
	}
	for i, ca := range ra {
		first, last := max(0, i-limit), min(len(rb), i+limit+1)
		diag, least := row[first], limit
		row[first] = limit
		if first == 0 {
			row[0] = min(i+1, limit)
		}
		for j := first; j < last; j++ {
			cost := diag
			if ca != rb[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], min(cost, limit)
			least = min(least, row[j+1])
		}
		if least >= limit && row[first] >= limit {
			return limit
		}
	}
	return row[len(rb)]
}
