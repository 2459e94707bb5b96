// Package dockerfile is the frontend for Dockerfiles: it reads a request's options, finds the build context, the Dockerfile and
// its ignore file, has frontend/dockerfile/lower turn the Dockerfile into LLB for each platform, and returns the results with
// the metadata that exporters want.
//
// [Frontend] is what a daemon calls. [Builtin] tells the images of "# syntax=" that mean this frontend from those that must be run.
//
// Options are read once into options; their names and values are those that BuildKit's frontend takes, as buildctl, docker and
// buildx send them. Everything about the outside goes through gateway, a client of the build; contexts builds on it what
// lower asks for (lower.Contexts). No file of the host is opened here.
package dockerfile
