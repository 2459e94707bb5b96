// Package worker runs the steps of a graph: sources here, where the client's
// files and credentials are, and everything else wherever [Steps] says. [Runner]
// is the solver's view of it.
package worker
