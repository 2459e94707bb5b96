// Package agent runs steps on other machines. A [Server] serves the API
// buildd.worker.v1 over an op.Worker and the stores that it works with; a
// [Remote] sends steps to one or several such servers, with the layers that they
// read, and takes the layers that they make back into its own store. To the
// solver a Remote is what an op.Worker is.
//
// Neither side believes the other. A layer is checked against its content or its
// digest before it has a name in a store, an op is validated where it arrives,
// what a worker returns may consist of the step's inputs and of new layers only,
// and of a client's secrets and SSH agents a worker gets those that the op names,
// while the step runs.
//
// proto/README.md tells how a step goes over the wire.
package agent
