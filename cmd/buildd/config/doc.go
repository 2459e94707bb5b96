// Package config reads what a buildd daemon is told: the file buildkitd.toml,
// with the keys that BuildKit's docs/buildkitd.toml.md describes, and the flags
// of buildkitd. Flags win over the file.
package config
