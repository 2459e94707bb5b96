// Package gateway serves BuildKit's LLBBridge (frontend/gateway/pb) to
// frontends that run outside of the daemon: in a client such as docker buildx,
// or in a container. A [Session] translates one such frontend's calls to a
// gateway client; [Forwarder] finds the session that a call on the daemon's own
// address belongs to.
package gateway
