package remotecache

import (
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
)

// remoteSteps gives steps the form that they are exported in; keep says which
// trees are. Of sources that a build has at hand anyway, because pinning them
// takes as long or brings their files, only what others see of them is.
func remoteSteps(known []*solver.Known, keep func(cache.Tree) bool) []remote.Step {
	var out []remote.Step
	for _, k := range known {
		s := remote.Step{Key: k.Key}
		for _, seen := range k.Seen {
			s.Contents = append(s.Contents, remote.SelectedContent{Output: seen.Output, Selector: seen.Selector, Digest: seen.Digest})
		}
		if k.Record != nil && !atHand(k.Vertex) && !slices.ContainsFunc(k.Record.Trees, func(t cache.Tree) bool { return !keep(t) }) {
			s.Record = k.Record
		}
		out = append(out, s)
	}
	return out
}

func atHand(v *solver.Vertex) bool {
	o, ok := v.Op.(*llb.Op)
	if !ok {
		return false
	}
	scheme, _, _ := strings.Cut(o.Def.GetSource().GetIdentifier(), "://")
	switch scheme {
	case "docker-image", "oci-layout", "local":
		return true
	default:
		return false
	}
}
