package connect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DefaultRoot is buildd's state directory if nothing else is said, as the daemon
// itself has it.
func DefaultRoot() string {
	if os.Geteuid() == 0 {
		return "/var/lib/buildd"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "buildd")
	}
	return filepath.Join(os.Getenv("HOME"), ".local/share/buildd")
}

// defaultAddresses are where daemons listen by default, buildd's before
// BuildKit's where both are the user's own, and those before the system's.
func defaultAddresses() []string {
	var out []string
	if uid := os.Geteuid(); uid != 0 {
		own := filepath.Join(os.TempDir(), fmt.Sprintf("buildd-%d", uid))
		if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
			own = filepath.Join(d, "buildd")
			out = append(out, "unix://"+filepath.Join(d, "buildkit/buildkitd.sock"))
		}
		out = append([]string{"unix://" + filepath.Join(own, "buildd.sock")}, out...)
	}
	return append(out, "unix:///run/buildd/buildd.sock", "unix:///run/buildkit/buildkitd.sock")
}

// listens tells whether somebody listens on a unix socket who lets us in.
func listens(addr string) bool {
	c, err := net.DialTimeout("unix", strings.TrimPrefix(addr, "unix://"), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// places are the files by which clients find the daemon of a state directory.
type places struct {
	root string
	// lock is held by the supervisor, control is where it takes clients, daemon
	// is the daemon's own socket and log what it says.
	lock, control, daemon, log string
}

// newPlaces returns the places for root. They lie apart from it, for a socket's
// path is bounded at about a hundred bytes.
func newPlaces(root string) (places, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return places{}, fmt.Errorf("--root %q: %w", root, err)
	}
	dir, err := runDir()
	if err != nil {
		return places{}, err
	}
	sum := sha256.Sum256([]byte(abs))
	base := filepath.Join(dir, "for-"+hex.EncodeToString(sum[:6]))
	return places{root: abs, lock: base + ".lock", control: base + ".ctl", daemon: base + ".sock", log: base + ".log"}, nil
}

// ours tells whether a file is the user's own.
func ours(fi os.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// runDir makes the directory for sockets that are nobody else's.
func runDir() (string, error) {
	dir := "/run/buildd"
	if uid := os.Geteuid(); uid != 0 {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("buildd-%d", uid))
		if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
			dir = filepath.Join(d, "buildd")
		}
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make directory for sockets: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("make directory for sockets: %w", err)
	}
	if !fi.IsDir() || fi.Mode().Perm()&0o022 != 0 || !ours(fi) {
		return "", fmt.Errorf("directory for sockets: %s must be a directory of yours that nobody else writes: remove it or set $XDG_RUNTIME_DIR", dir)
	}
	return dir, nil
}
