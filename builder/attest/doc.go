// Package attest says how a build came about: provenance as SLSA has it
// (https://slsa.dev/provenance, versions 1 and 0.2) with the fields that BuildKit
// adds (docs/attestations/slsa-definitions.md there).
//
// [Parse] reads what a client asks for. A [Call] is one call of a frontend and
// records what happens in it: the images that it looked up, the definitions that
// it had solved, the frontends that it called. When the build is done
// [Call.Captures] walks the graphs of what it returned, and [Build.Predicate]
// writes down what was found. [Producers] knows which calls made the
// definitions that builds of one daemon hand on to each other.
//
// Nothing here is asked while steps run: a build pays for its provenance when it
// has ended.
package attest
