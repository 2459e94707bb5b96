// Package option reads the values of a build's flags, as docker buildx and
// BuildKit's buildctl take them: outputs, caches, secrets, ssh agents,
// attestations, annotations, contexts. An error names the value and what would
// be right; the caller puts the flag's name before it.
package option
