// Package image is the source docker-image://REF: images from buildd's own store
// and from registries.
//
// What a reference means is looked up in the own image store first, then in the
// registry; with resolve mode "pull" the other way round. From there on all is
// content-addressed: manifests and configs are fetched, verified, kept in the
// blob store and never fetched again. Layers are not touched: [Source.Fetch]
// only tells the tree store which chain of layers the image is and where their
// blobs can be had.
//
// [Load] reads an image's manifests and config from anywhere, and is what the
// source oci-layout:// uses.
package image
