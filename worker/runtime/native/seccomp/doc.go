// Package seccomp compiles the seccomp section of an OCI runtime-spec to the
// classic BPF program that the kernel runs on every system call. It covers the
// architectures of [Native] and its compatible ones (i386 and x32 on amd64, 32
// bit arm on arm64) and needs neither libseccomp nor cgo.
//
// [Compile] is the only thing to know. Its reading of a profile is runc's: a
// rule with conditions holds if all of them do, except that several conditions
// on one argument are alternatives; and a call that is newer than every call
// that the profile names fails with ENOSYS instead of the default errno, so
// that libraries fall back to older calls.
package seccomp

//go:generate go run gen.go
