// Package imageapi serves buildd.images.v1: what the daemon's own image store
// holds, as "buildctl image" shows it. [Server] reads names from package image
// and manifests from package blob; it puts nothing in, which builds do.
package imageapi
