package op

import (
	"fmt"
	"io/fs"

	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"
)

// parseMode reads what chmod(1) takes, such as 0755 or u=rwX,go=rX, and returns
// the function from a file's mode, type included, to its new permission bits.
func parseMode(s string) (func(uint32) uint32, error) {
	set, err := mode.ParseWithUmask(s, 0)
	if err != nil {
		return nil, fmt.Errorf("mode %q: want octal digits or clauses such as u=rwX,go=rX: %w", s, err)
	}
	return func(m uint32) uint32 { return permBits(set.Apply(fileMode(m))) }, nil
}

// fixedMode gives every file the same permission bits.
func fixedMode(m int32) func(uint32) uint32 {
	return func(uint32) uint32 { return uint32(m) & 0o7777 }
}

func fileMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	if m&unix.S_IFMT == unix.S_IFDIR {
		out |= fs.ModeDir
	}
	if m&unix.S_ISUID != 0 {
		out |= fs.ModeSetuid
	}
	if m&unix.S_ISGID != 0 {
		out |= fs.ModeSetgid
	}
	if m&unix.S_ISVTX != 0 {
		out |= fs.ModeSticky
	}
	return out
}

func permBits(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		out |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		out |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		out |= unix.S_ISVTX
	}
	return out
}
