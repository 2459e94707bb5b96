// Package debug has the commands that look into a daemon: its workers, its
// version, its records of builds, and into LLB.
package debug
