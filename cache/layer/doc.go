// Package layer turns a layer's directory (overlay upper format) into the tar
// of an OCI image layer and back, as the OCI image-spec, layer.md, has it.
//
// [Unpack] writes what a registry or a client sent into an empty directory and
// makes the layer's digest.Index from the same pass. [Pack] writes the tar; equal
// files give equal bytes on every machine. [Compression], [NewWriter] and
// [NewReader] are what such tars come compressed with. [UnpackArchive] is
// something else: a Dockerfile's ADD of an archive into a root file system that
// is there already.
//
// All that is unpacked is taken for hostile. Names are resolved in memory or, by
// UnpackArchive, by the kernel within the given directory (openat2), and a file
// is only ever created by its name in an open directory, so nothing is written
// outside. Neither bounds how much is written: whoever hands in a stream decides
// how long it may be.
package layer
