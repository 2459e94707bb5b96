// Package solver evaluates build graphs. It gives every vertex a key, asks the
// cache for it, and runs what it does not find, once per key however many
// builds ask.
//
// Two rules hold everything together:
//
//	Key(v)   = H(op digest of v; for each input: the content digest of the files of it that v can see)
//	Solve(v) = look up Key(v); on a miss solve the inputs, derive the key again, and run v as a
//	           shared flight under its key
//
// [Solver] is shared by all builds, [Build] is one client's request, [Vertex] a
// step of its graph, and a [Runner] does the work.
package solver
