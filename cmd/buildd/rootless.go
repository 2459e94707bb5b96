package main

import (
	"log/slog"

	"github.com/buildd/buildd/worker/userns"
	"github.com/moby/sys/user"
	linuxns "github.com/moby/sys/userns"
)

// rootless says what a daemon without privileges has to do without.
type rootless struct {
	// on: the daemon is root of a user namespace.
	on bool
	// singleID: that namespace knows a single user, so files cannot be given to
	// others; their owners are remembered in an attribute.
	singleID bool
}

// detectRootless finds out whether the daemon runs in a user namespace.
func detectRootless(log *slog.Logger) rootless {
	if !linuxns.RunningInUserNS() {
		return rootless{}
	}
	ids, size := user.CurrentProcessUIDMap, int64(0)
	if m, err := ids(); err == nil {
		for _, r := range m {
			size += r.Count
		}
	}
	if size == 1 && !userns.Inside() { // who made this namespace has said so
		log.Warn("only one user ID is mapped: owners of files are remembered, but steps see all files as root's; install uidmap and add subordinate IDs to /etc/subuid and /etc/subgid")
	}
	return rootless{on: true, singleID: size == 1}
}
