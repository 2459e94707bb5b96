// Package builder turns a client's request into its outputs: it finds the
// frontend, solves what that returns, and hands the trees to the exporters.
// [Builder] is what the gRPC services in builder/control serve.
package builder
