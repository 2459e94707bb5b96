// Package sbom has images scanned for a software bill of materials, by the
// protocol of BuildKit's docs/attestations/sbom-protocol.md: a scanner is an image
// that is run over the files of a build and writes SPDX documents as in-toto
// statements.
//
// [Parse] reads what a client asks for, [Find] looks up the scanner's image, and
// [Scanner.Scan] returns the state that holds what it writes.
package sbom
