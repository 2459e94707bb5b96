// Package cgroup puts containers into control groups, of version 1 or 2: it
// limits what they use, says which devices they reach, and tells whether the
// kernel had to kill one of their processes for memory.
//
// The types to know are [Tree], the host's hierarchies, and [Group], that of one
// container. A container gets a group only of the controllers that its limits
// need: each one costs it time.
package cgroup
