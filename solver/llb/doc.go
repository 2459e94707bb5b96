// Package llb reads BuildKit's LLB, a protobuf graph of low-level build steps
// (solver/pb of BuildKit), into the solver's vertices. [Load] checks a
// definition, which comes from a client and is hostile until then; [Op] says
// what of a step counts for its key and which files of its inputs it sees.
package llb
