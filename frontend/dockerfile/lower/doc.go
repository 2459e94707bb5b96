// Package lower turns a Dockerfile into LLB and an image config, for one platform.
//
// [Lower] is the whole of it: the bytes of a Dockerfile and [Options] go in, a [Result] comes out: the state that the target
// stage leaves behind, the config of the image that it becomes, and what else a build has to know of it. [Outline], [Targets]
// and [Lint] answer questions about a Dockerfile without building it.
//
// The package reads no file and dials nobody. What it must know about the world it asks of two interfaces: [Contexts], the
// build context and the named ones, and BuildKit's ImageMetaResolver, which tells the config of a base image. So every behaviour
// of it can be tested with a Dockerfile and a text.
//
// The language is that of the Dockerfile reference (https://docs.docker.com/reference/dockerfile/); names of vertices, history
// and config are those that BuildKit's frontend gives, because clients, scanners and registries read them.
//
// Several platforms, subrequests, the ignore file and how a context is loaded belong to the package above it.
package lower
