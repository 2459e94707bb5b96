// Package bridge is what frontends talk to: BuildKit's gateway client
// (frontend/gateway/client.Client) over our own solver. A [Build] belongs to one
// request of one client; [Build.Client] gives a frontend, whether it runs in
// the daemon or on the client's side, its view of it.
package bridge
