// Package remote is the form in which what a build knows of its steps leaves the
// machine and comes back: --cache-to and --cache-from.
//
// A [Document] lists steps by key: the layers of their trees, and the content
// digests of what other steps see of them. [Make] makes one, and lists the blobs
// that have to go along. [Write] puts both into anything that takes OCI manifests,
// [Read] gets the documents back, also those that images carry inline. A [Cache]
// is what a build reads them through; it implements solver.Import.
//
// # Form
//
// A document is JSON, the value of the field [Field] of an object. In a registry
// or an OCI layout that object is the config of an image manifest whose layers
// are the blobs, or an entry of an index beside them. Its media type is that of
// BuildKit's cache config: registries know it and take it. BuildKit itself finds
// an empty cache there, as we do not read its records: its keys are not ours.
// Inline, the document is in the config of an image, base64-encoded, under the
// same name, and its layers are those of the image.
//
// # Trust
//
// A document is what somebody says. Blobs are checked against their digests, and
// what they unpack to against their diff IDs, before anybody reads a file of them;
// sizes and numbers are bounded. That a tree is the outcome of a step cannot be
// checked: who imports a cache trusts whoever could write to it to that extent, for
// the one build that asks for it. It enters no cache that other builds read; see
// solver.Import and tree.Store.AddRemote for how that is seen to.
package remote
