// Package trace keeps the OpenTelemetry spans of builds: those that clients send
// (a [Recorder] is an OTLP trace collector), and those of the daemon, which are
// made of a build's progress once it has ended ([Build.End]). Nothing is traced
// while steps run.
//
// History records keep the spans in the form that BuildKit's clients read,
// application/vnd.buildkit.otlp.json.v0: span stubs of the OpenTelemetry SDK as
// JSON, one after the other ([Encode]).
package trace
