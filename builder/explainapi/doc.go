// Package explainapi serves buildd.explain.v1: why the steps of builds ran, as
// "buildctl why" shows it. [Server] reads it from the build history.
package explainapi
