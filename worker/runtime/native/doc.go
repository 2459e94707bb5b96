// Package native makes containers itself, without runc. [Runtime] is a
// runtime.Runtime; a program that uses it calls [Init] first thing in main, and
// test programs in TestMain, because buildd executes itself again as the process
// that containers are forked from (package zygote says how a container comes to
// be).
//
// It needs Linux 5.12 (mount_setattr, close_range) and cgroups of either
// version. Where the kernel is older, or a spec asks for what only runc knows
// (SELinux labels, hooks, Intel RDT), use package oci instead.
package native
