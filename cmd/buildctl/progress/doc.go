// Package progress shows what a build does, on a terminal, as plain text or as
// JSON, with BuildKit's progressui, and afterwards its warnings and its error
// with the lines of the Dockerfile that they are about.
package progress
