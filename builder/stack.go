package builder

import (
	"github.com/pkg/errors"
)

// withStack adds to the error of a build where in the daemon it ended. Clients
// of BuildKit look for it in the error's details, and print it when they are
// asked to debug.
func withStack(err error) error { return errors.WithStack(err) }
