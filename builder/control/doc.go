// Package control serves moby.buildkit.v1.Control, the API that BuildKit's
// clients speak: it translates between the protocol and the builder, and is the
// only place where gRPC codes are chosen.
package control
