// Package draft writes layers without mounting anything. A [Draft] is a layer
// in the making: a directory in overlay upper format over a [View] of what lies
// below, with an entry in memory for every path that the directory holds. It
// looks like a file system ([Draft.Lstat], [Draft.ReadDir], [Draft.Resolve]) and
// is written like one; whiteouts, opaque directories and copied-up parents come
// about on the way.
//
// [Draft.Copy] copies out of a View, with hard links where a file needs no
// change: the bytes are neither read nor written, and since every hash is known
// already, [Draft.Finish] gives the layer's entries without reading a file. No
// file of a Draft is ever written in place, so nothing is written through a hard
// link. [Draft.Extract] unpacks an archive as ADD does.
//
// All paths are slash-separated and relative to the root of the file system
// that is built; symbolic links are resolved within it, never outside. A Draft
// is not safe for concurrent use, and its directory is nobody else's until
// Finish.
package draft
