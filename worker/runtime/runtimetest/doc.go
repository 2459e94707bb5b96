// Package runtimetest is the suite that every runtime.Runtime passes: what a
// container sees of the host, which is nothing; what it may do, which is what
// Docker lets it do; how it ends; and that nothing is left behind. [Run] runs it.
//
// It needs root, and busybox from Debian's busybox-static.
package runtimetest
