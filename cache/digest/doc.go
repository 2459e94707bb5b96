// Package digest knows layers by their content. An [Index] lists what a layer
// in overlay upper format holds, every regular file with the SHA-256 of its
// bytes; it is made once, when the layer is made ([Scan], or layer.Unpack), and
// lies beside the layer from then on. A [View] is the merged file system of a
// chain of layers, answered from their indexes alone: nothing is mounted and no
// file is opened to resolve a path, to expand a wildcard, or to compute the
// content digest that a [Selection] of it has.
package digest
