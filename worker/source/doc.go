// Package source turns what an LLB source op names (an image, a git
// repository, a URL, a directory of the client, an OCI layout) into a tree of
// files, in two moves. [Source.Pin] finds out what the name means now, as cheaply
// as can be, and says so in a [Pin], whose Key covers all that the files depend
// on. [Source.Fetch] makes the tree of a Pin, and is only called if no step with
// that Pin was solved before.
//
// The kinds live in packages of their own: image (docker-image://), ocilayout
// (oci-layout://), git, http (http and https) and local. A [Set] chooses among
// them by scheme.
package source
