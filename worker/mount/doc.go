// Package mount makes what steps mount besides trees. A [Caches] keeps the
// directories of cache mounts from step to step, [Memory] is a file system in
// memory for what must never reach a disk, and [Bind] mounts a part of a
// directory so that nothing in it can lead out.
//
// It mounts nothing inside containers: the paths that it returns are sources of
// mounts of an OCI runtime-spec.
package mount
