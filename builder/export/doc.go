// Package export hands the outcome of a build to whom it is for: into the image
// store and to registries ([TypeImage]), to the client as an archive
// ([TypeOCI], [TypeDocker], [TypeTar]) or as files ([TypeLocal]).
//
// A [Set] makes an [Exporter] of a type name and its attributes; attributes are
// those of BuildKit's exporters, wrong ones are refused before anything is
// built. An exporter gets an [Input], the trees of all platforms with the
// frontend's metadata, and a [Request], through which it reaches the client and
// reports progress. The [Result] carries what the client is told and what
// remains to be done when all exporters of a build have come so far: the push.
// Layers that are to be pushed are on their way to the registry before that, while
// they are compressed; nothing names them there until the push.
//
// Exporting is deterministic: the same trees, metadata and attributes give the
// same bytes. The only clock that is read is that of an OCI archive's
// org.opencontainers.image.created annotation, and SOURCE_DATE_EPOCH replaces it.
//
// The package makes no layers and opens no connections of its own: layers come
// packed from the tree store, registries are reached through the resolver that
// the daemon gives.
package export
