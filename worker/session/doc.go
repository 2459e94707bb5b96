// Package session reaches back to the clients of a build: their secrets, ssh
// agents, registry credentials, files and content stores, all over BuildKit's
// session protocol (moby.filesync.v1, moby.sshforward.v1, and so on).
//
// A [Manager] knows the sessions that are connected. A [Client] is the set of
// sessions that may serve one step at this moment; the set changes while the
// step runs, because builds join and leave it. Everything else is a function
// over a Client that performs one errand: [Secret], [MountSSH], [FetchToken],
// [ContentStore], [SendFile].
//
// Nothing here is a build's cache: what a client answers is used and forgotten.
package session
