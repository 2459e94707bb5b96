package dockerfile

import (
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
)

// frontendCaps are the abilities that a request may insist on in the option frontend.caps.
var frontendCaps = []string{
	"moby.buildkit.frontend.inputs",
	"moby.buildkit.frontend.subrequests",
	"moby.buildkit.frontend.contexts",
	"moby.buildkit.frontend.gitquerystring",
	"moby.buildkit.frontend.contexts.zstd",
}

// missingCap returns an error for an ability that this frontend has not. With forward, a frontend that the Dockerfile names may
// still have it.
func missingCap(list string) (forward bool, err error) {
	for c := range strings.SplitSeq(list, ",") {
		name, flags, _ := strings.Cut(c, "+")
		if name == "" || slices.Contains(frontendCaps, name) {
			continue
		}
		err = grpcerrors.WrapCode(errdefs.NewUnsupportedFrontendCapError(name), codes.Unimplemented)
		if !slices.Contains(strings.Split(flags, "+"), "forward") {
			return false, err
		}
		forward = true
	}
	return forward, err
}
