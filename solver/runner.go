package solver

import (
	"context"
	"time"

	"github.com/buildd/buildd/cache"
)

// Step is one vertex to be run over the trees of its inputs.
type Step struct {
	Key    cache.Key
	Vertex *Vertex
	// Inputs are in the order of Vertex.Inputs.
	Inputs []cache.Tree
}

// Runner does the work of a step: the local worker, the farm, or a fake. It
// returns one tree per output of the step's op, in their order.
//
// Run ends soon after ctx is cancelled, with all that it started stopped and
// all that it had not finished removed.
type Runner interface {
	Run(ctx context.Context, w Waiters, s Step) ([]cache.Tree, error)
}

// Waiters are the builds that wait for a step. Who they are changes while the
// step runs: builds join and leave.
type Waiters interface {
	// Sessions returns the IDs of the client sessions that lend the step their
	// files, secrets and credentials, first come first.
	Sessions() []string
	// Log passes on what the step wrote; stream is 1 for standard output, 2 for
	// standard error.
	Log(stream int, data []byte)
	// Status passes on how a part of the step gets on.
	Status(s Status)
}

// Status is the progress of a part of a step, such as the download of a layer.
type Status struct {
	// ID names the part within its step.
	ID string
	// Current of Total bytes are done; Total is 0 if it is not known.
	Current, Total int64
	Started        time.Time
	// Completed is zero until the part is done.
	Completed time.Time
}
