// Package zygote is the process that the containers of the native runtime are
// forked from. buildd starts it once, by executing itself; after that a
// container costs a few system calls and one fork instead of the start of a Go
// program.
//
// How a container comes to be (container.go is the outline):
//
//  1. A thread of the zygote, of which nothing else will ever run, opens what
//     the container needs of the host as detached mounts and file descriptors.
//  2. The thread leaves the daemon's mount namespace for a copy of a base
//     namespace that holds nothing but an empty directory (base.go), and takes
//     new namespaces. No mount of the host is ever in sight of the container,
//     and the cost does not grow with the host's mount table.
//  3. The thread mounts the root and all below it, by descriptors; a path
//     inside the root is resolved by openat2 with RESOLVE_IN_ROOT only.
//  4. The thread forks. The child is not a Go program any more: it carries out
//     a list of system calls prepared beforehand (program.go, child.go), which
//     ends in execve, and so is the first process of the container.
//  5. The thread ends.
//
// The zygote is the first process of a pid namespace of its own in which those
// of the containers lie. Whatever ends it, and it ends with the daemon, ends
// every process of every container: the kernel sees to that.
//
// The types to know are [Request] and [Reply], and the two ends: [Main] in the
// zygote, [Start] in the daemon. Everything that a decision is needed for is
// decided in the daemon; a Request is taken at its word.
package zygote
