// Package oci runs containers by any program with runc's command line: runc,
// crun, runsc. [Runtime] is a runtime.Runtime.
//
// It is for hosts whose kernel is too old for package native, and for what only
// these programs do: SELinux labels, virtual machines or another kernel around
// each container. It costs tens of milliseconds per container.
package oci
