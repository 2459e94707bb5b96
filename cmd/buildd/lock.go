package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes a state directory for this process alone.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock state directory: another daemon has %s: name another directory with --root", path)
	}
	return f.Close, nil
}
