// Package archive knows tar archives by their beginning and makes them of
// directories, with all that a root file system holds.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"io"
)

// Header is how much of a file [Is] looks at, in bytes.
const Header = 1024

// Is tells a tar archive, plain or compressed, from other files. r must hold
// Header bytes.
func Is(r *bufio.Reader) (bool, error) {
	head, err := r.Peek(Header)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return is(head), nil
}

func is(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	if len(head) >= 262 && string(head[257:262]) == "ustar" {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next() // of the format before ustar
	return err == nil
}
