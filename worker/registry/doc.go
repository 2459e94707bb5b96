// Package registry talks to image registries as buildkitd.toml's
// [registry."HOST"] sections say: through mirrors, over plain HTTP or TLS with
// own certificates, with the client's credentials, and patiently where a
// failure is likely to pass.
//
// [Hosts] is made once from the configuration and shared by all builds. A
// [Resolver] belongs to one client (its credentials) and one purpose (pull or
// push); it is a containerd remotes.Resolver whose errors name the image and
// what to do about it. [Hosts.Blob] opens a blob from the first of several
// images that has it. An [Uploader] sends a blob that is still being made.
//
// Nothing that a registry sends is verified here; who stores it does that.
package registry
