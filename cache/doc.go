// Package cache holds the names that every store of buildd speaks in: a [Key]
// says what a step depends on, a [Tree] names the files that it made, a
// [Selector] says which of those files another step can see, and a [Record]
// ties them together in the action cache.
//
// The stores themselves lie below: blob (content-addressed bytes), layer
// (directory to tar and back), digest (content digests of layers and of what a
// step sees of them), tree (chains of layers on disk) and action (what was run,
// and with which outcome).
package cache
