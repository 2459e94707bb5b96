// Package tree keeps chains of layers on disk. A layer is a directory in
// overlay upper format with its digest.Index beside it; a cache.Tree is an
// immutable chain of layers. A tree can be read through a mount ([Store.View]),
// read without one ([Store.Files]), written over ([Store.Fork], then
// [Fork.Commit]) or extended by a directory written in place ([Store.NewDraft],
// then [Draft.Commit]). Layers of an image can be known before they are here
// ([Store.AddImage]); [Store.Ensure] brings them.
//
// A tree that nobody holds goes with the next [Store.Sweep]. Leases, mounts, forks
// and drafts hold trees; what a method of the store has just returned is safe
// until a lease takes it, or Config.Spare is over.
//
// Durability: a tree that a method returned is usable at once and durable after
// the next [Store.Sync], which makes a whole batch durable with one syncfs. The
// action cache calls Sync before it writes records that name trees, so a crash
// loses records, never correctness.
package tree
