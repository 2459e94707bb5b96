package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// PlatformWarnings says how the platforms of the outcome differ from those that
// the client asked for; no platform asks for the worker's own. A frontend is
// free to answer otherwise, so these are warnings.
func (in Input) PlatformWarnings(requested []string) []string {
	if len(requested) == 0 {
		requested = []string{platforms.Format(platforms.Normalize(platforms.DefaultSpec()))}
	}
	var warnings, names []string
	var want []ocispecs.Platform
	for _, r := range requested {
		p, err := platforms.Parse(r)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("Invalid platform result requested %q: %s", r, err))
			continue
		}
		name := platforms.FormatAll(platforms.Normalize(p))
		if slices.Contains(names, name) {
			warnings = append(warnings, fmt.Sprintf("Duplicate platform result requested %q", r))
		}
		names, want = append(names, name), append(want, platforms.Normalize(p))
	}
	switch {
	case len(warnings) > 0:
		return warnings
	case !in.Multi && len(want) > 1:
		return []string{"Multiple platforms requested but result is not multi-platform"}
	case len(want) == 1 && len(in.Platforms) == 1:
		if got := in.Platforms[0].Platform; !satisfies(got, want[0]) {
			return []string{fmt.Sprintf("Requested platform %q does not match result platform %q", requested[0], formatPlatforms(got))}
		}
		return nil
	}
	var got []ocispecs.Platform
	match := len(want) == len(in.Platforms)
	for _, p := range in.Platforms {
		got = append(got, p.Platform)
		match = match && slices.ContainsFunc(want, func(w ocispecs.Platform) bool { return satisfies(p.Platform, w) })
	}
	if match {
		return nil
	}
	return []string{fmt.Sprintf("Requested platforms %s do not match result platforms %s", formatPlatforms(want...), formatPlatforms(got...))}
}

// satisfies tells whether got is what was asked for. Who asks rarely names an OS
// version, which a result may well have.
func satisfies(got, want ocispecs.Platform) bool {
	got = platforms.Normalize(got)
	if want.OSVersion == "" {
		got.OSVersion = ""
	}
	return platforms.FormatAll(got) == platforms.FormatAll(want) || platforms.OnlyStrict(want).Match(got)
}

func formatPlatforms(ps ...ocispecs.Platform) string {
	var out []string
	for _, p := range ps {
		out = append(out, platforms.FormatAll(platforms.Normalize(p)))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}
