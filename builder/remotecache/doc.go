// Package remotecache is --cache-to and --cache-from: where caches are kept, and
// with which attributes. The form that they are kept in is cache/remote's.
//
// A [Set] makes an [Exporter] of a type name and its attributes, which are
// BuildKit's; wrong ones are refused before anything is built. [Set.Imports] is
// what one build imports: it adds caches to the build as its client or a frontend
// names them. Nothing is read before the build misses something in the daemon's
// own cache.
package remotecache
