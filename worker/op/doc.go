// Package op runs the steps of a build on this machine: exec, file, merge, diff
// and passthrough ops of LLB, over trees of cache/tree.
//
// A [Worker] is shared by all builds; a [Request] is one step with the trees of
// its inputs, and its outcome is one tree per output. [Worker.NewContainer] is
// for frontends that run processes of their own while they build.
//
// Everything in an op comes from a client and is checked by [Validate] before
// anything is done: indexes, paths, names, sizes. Paths are resolved inside
// trees, never outside, and no ID becomes a path. A step leaves no mount,
// process, control group or file behind but the trees that it returns; what a
// crash leaves, [New] removes.
//
// What the runtime needs as mount points (/proc, /etc/hosts, the target of a
// secret) is never in an output: a layer that holds only those is put between
// the input and the layer that the command writes, and taken out again.
package op
