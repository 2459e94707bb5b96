//go:build !amd64 && !arm64

package zygote

import "unsafe"

const canShare = false

func vfork(unsafe.Pointer, uintptr) (pid, errno uintptr) { panic("zygote: no vfork") }
