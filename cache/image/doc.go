// Package image keeps the names of images that buildd holds itself: name to
// descriptor of a manifest or index, whose bytes lie in the blob store. An
// exporter puts names in, the image source looks there before it asks a
// registry, and garbage collection keeps what the names lead to.
package image
