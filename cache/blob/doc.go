// Package blob keeps content-addressed bytes on disk: layers as they came from
// a registry or go to one, image configurations, manifests. [Store] is a
// containerd content.Store, so containerd's resolvers, importers and exporters
// work on it, with an [Store.Ingest] that believes nothing it is sent.
//
// What may be removed is decided elsewhere (package gc): [Store.Sweep] spares
// what was written, looked at or asked for a moment ago, so that a blob is safe
// between its arrival and the record that names it, and what a [Store.Hold]
// covers for longer than that.
package blob
