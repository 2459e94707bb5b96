// Package connect finds the daemon that a command talks to: the one that
// [Options] name, one that listens where daemons do by default, or a daemon that
// it starts for this command alone and ends after it.
//
// A daemon of the last kind belongs to a supervisor, a process of this program
// that holds the state directory's lock for clients, ends the daemon when the
// last client has gone, however it went, and lets a second client join the first
// one's daemon. [Supervise] is that process.
package connect
