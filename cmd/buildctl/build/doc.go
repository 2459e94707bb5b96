// Package build is the command that builds. It takes two forms of command line,
// docker's, with a context as its argument, and BuildKit's, with a frontend and
// its options or LLB on standard input, makes a request of either, and runs it.
//
// flags.go has the flags, docker.go and buildkit.go make a [request] of them,
// context.go finds the files that go with it, run.go runs it.
package build
