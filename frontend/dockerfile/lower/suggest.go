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

// editDistance is Levenshtein's, or any number from limit upwards if it is not below limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= 4*limit || -d >= 4*limit { // a rune has up to four bytes
		return limit
	}
	ra, rb := []rune(a), []rune(b)
	row := make([]int, len(rb)+1)
	for j := range row {
		row[j] = j
	}
	for i, ca := range ra {
		diag, least := row[0], i+1
		row[0] = i + 1
		for j, cb := range rb {
			cost := diag
			if ca != cb {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
			least = min(least, cost)
		}
		if least >= limit {
			return limit
		}
	}
	return row[len(rb)]
}
