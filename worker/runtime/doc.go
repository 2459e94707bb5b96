// Package runtime runs commands in build containers. A container is described
// by an OCI runtime-spec document ([Spec] makes the one of a build step) and is
// run by a [Runtime]: native, which makes the container itself, or oci, which
// hands a bundle to runc, crun or any binary with the same command line. Both
// pass the same suite, runtimetest.
//
// The types to know are [Runtime], [Sandbox], [Process] and [ExitError]. The
// package neither mounts root file systems nor makes networks: Root.Path of the
// spec is mounted by the caller, and a network namespace comes as a path.
package runtime
