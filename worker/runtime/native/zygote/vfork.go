//go:build amd64 || arm64

package zygote

import "unsafe"

// canShare says that vfork is there.
const canShare = true

// vfork calls clone3 for a child that shares the caller's memory, down to the
// stack, while the calling thread waits for it to execute or exit.
//
//go:noescape
func vfork(args unsafe.Pointer, size uintptr) (pid, errno uintptr)
