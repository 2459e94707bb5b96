// Package local is the source local://NAME: a directory of the client.
//
// A transfer asks the client for the list of its files first (the protocol is
// fsutil's) and then for the bytes of those that no earlier transfer brought.
// What is known of earlier transfers is a [snapshot] each: the list as the
// client sent it, with the SHA-256 of every file, and the tree that holds them.
// Files arrive beside each other, are hashed while they are written, and take
// their names at the end; files that did not change are hard links into the
// earlier tree. No directory is ever written twice, so nothing that an earlier
// build or another client sees can change, and a transfer that breaks off leaves
// nothing.
//
// If nothing changed, the earlier tree is the result and the disk is not
// touched.
package local
