// Package frontend names what turns a client's request into a graph: it reads files of the client's context through the
// build's gateway, submits LLB, and returns references and metadata for the exporters.
//
// [Frontend] is the only type here. The implementations are frontend/dockerfile (Dockerfiles) and the gateway, which runs a
// frontend that came as an image. A frontend never sees the solver, the cache or a file system of the host: everything goes
// through BuildKit's gateway client interface, so that the same code also runs outside of the daemon.
package frontend
