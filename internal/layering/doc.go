// Package layering holds the test that keeps the code's layers apart: imports
// only go down, and of BuildKit only protocols, parsers and client code come in.
package layering
