// Package network gives build containers their network. A [Provider] hands out a
// [Namespace] per container, which is written into the container's spec and
// closed after it:
//
//   - [None]: a namespace with a loopback device;
//   - [Host]: the daemon's own (an entitlement);
//   - [Bridge]: a namespace behind a bridge with address translation, made
//     through netlink and nftables without any other program;
//   - [CNI]: whatever a CNI configuration and its plugins make.
//
// Bridge and CNI keep namespaces ready, so that a step does not wait for one.
// Files that name namespaces are bind mounts below a directory of the
// provider's own. What a killed daemon left behind is removed when the next one
// makes its provider.
//
// Names in the container's /etc/resolv.conf and /etc/hosts are the worker's
// matter.
package network
