// Package usage has the commands about the daemon's disk: du, prune and
// prune-histories.
package usage
