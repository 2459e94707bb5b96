// Package explain finds out why steps ran. Each step that no cache has is
// compared with the same step of the last build of the same target: its parts
// (command, variables, options, what a source was pinned to) one by one, and of
// inputs that differ the files, as far as both trees are still here.
//
// An [Explainer] is the daemon's; it remembers of each target what its last build
// was like, in a [Memory]. A [Build] stands between one build and its progress:
// it is told of misses, compares beside the build, which never waits for it, and
// adds a line to the progress of a step that it can explain in time. What came
// out in the end is a list of [explainv1.Step] for the build's record.
//
// What is remembered holds no secret: those are in no definition. Values of
// variables that are called like one are kept as digests only.
package explain
