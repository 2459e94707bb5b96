// Package flight runs a function at most once at a time per key and shares its
// outcome with everybody who asked for it meanwhile.
//
// Unlike with x/sync/singleflight the work belongs to nobody. It runs under a
// context of its own, which is cancelled when the last waiter has left, and it
// can ask who waits for it now ([Call.Waiters], [Call.OnJoin]), so that it can
// use what they lend it and report to all of them. Nothing is remembered after
// a flight has ended: a [Group] is not a cache.
//
// A flight must not wait for a flight of the same group, or two of them can
// wait for each other.
package flight
