package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// sameClient is the engine that differs from BuildKit in the daemon only.
const sameClient = "buildd-stock"

// row is what came out of a workload, by engine.
type row struct {
	w       *workload
	seconds map[string][]float64
	floor   []float64
	peak    map[string]int64
	why     map[string]string // why an engine has no result
}

func (r *row) fail(e engine, err error) {
	text := strings.Join(strings.Fields(err.Error()), " ")
	r.why[e.name()] = text[:min(len(text), 500)]
	fmt.Fprintf(os.Stderr, "%s: %s failed: %v\n", r.w.name, e.name(), err)
}

// table is what a run prints.
type table struct {
	engines []string
	rounds  int
	when    time.Time
	rows    []row
}

// median of nothing is -1.
func median(v []float64) float64 {
	if len(v) == 0 {
		return -1
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// line is a row for those who watch.
func (t *table) line(r row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%-8s", r.w.name)
	for _, e := range t.engines {
		fmt.Fprintf(&out, " %s %s", e, r.cell(e))
	}
	fmt.Fprintf(&out, "; ratio %s, same client %s (must reach %s), floor %s", r.ratio("buildd", "buildkit"), r.ratio(sameClient, "buildkit"), r.target(), number(median(r.floor), r.w.unit))
	return out.String()
}

func (r row) cell(engine string) string {
	if v := median(r.seconds[engine]); v >= 0 {
		return number(v, r.w.unit)
	}
	if r.w.without[engine] != "" {
		return "-"
	}
	return "failed"
}

// ratio of one engine to another.
func (r row) ratio(of, to string) string {
	a, b := median(r.seconds[of]), median(r.seconds[to])
	if a < 0 || b <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

func (r row) target() string {
	if r.w.target == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r.w.target)
}

func number(v float64, unit string) string {
	switch {
	case v < 0:
		return "-"
	case unit != "":
		return fmt.Sprintf("%.0f %s", v, unit)
	case v < 1:
		return fmt.Sprintf("%.0f ms", v*1000)
	case v < 10:
		return fmt.Sprintf("%.2f s", v)
	default:
		return fmt.Sprintf("%.1f s", v)
	}
}

func (t *table) markdown() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s, %d cores, medians of %d rounds; buildd is driven by its own buildctl, buildd-stock by BuildKit's\n\n", t.when.Format(time.DateOnly), cores(), t.rounds)
	head := []string{"workload"}
	head = append(head, t.engines...)
	head = append(head, "floor", "to BuildKit", "same client", "must reach", "to buildah", "peak MB "+strings.Join(t.engines, "/"))
	fmt.Fprintf(&out, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	var notes []string
	for _, r := range t.rows {
		line := []string{r.w.name + " " + r.w.what}
		var peaks []string
		for _, e := range t.engines {
			line = append(line, r.cell(e))
			peaks = append(peaks, megabytes(r.peak[e]))
			if why := r.why[e]; why != "" {
				notes = append(notes, fmt.Sprintf("%s, %s: %s", r.w.name, e, why))
			}
		}
		line = append(line, number(median(r.floor), r.w.unit), r.ratio("buildd", "buildkit"), r.ratio(sameClient, "buildkit"), r.target(), r.ratio("buildd", "buildah"), strings.Join(peaks, "/"))
		fmt.Fprintf(&out, "| %s |\n", strings.Join(line, " | "))
	}
	for _, n := range notes {
		fmt.Fprintf(&out, "\n- %s", n)
	}
	if len(notes) > 0 {
		out.WriteString("\n")
	}
	return out.String()
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n >> 20)
}
