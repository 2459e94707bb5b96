// Package action is the action cache: what ran under which key and what came of
// it ([Store.Result]), what the content digest of a part of that is
// ([Store.Content]), and what the last build of a target was like
// ([Store.LastBuild]).
//
// Writes are seen at once and reach the disk in batches. Before a batch that has
// results goes there, Config.Barrier makes the trees durable that it names, so a
// crash loses records, never correctness. The store is a cache in every way: a
// damaged database is moved aside, and what cannot be read is not there.
package action
