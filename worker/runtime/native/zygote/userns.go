package zygote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// userNS is the making of a user namespace: the child leaves for a new one, and
// the zygote, which alone may, writes the mappings while it waits. It comes after
// all mounts, so the namespaces belong to the daemon, and root of the container
// has no power over them.
type userNS struct {
	uidMap, gidMap string
	ready, done    [2]int // pipes: child to zygote, zygote to child
	join           fd     // join the namespace of this process (a pidfd) instead
}

func newUserNS(uidMap, gidMap string) (*userNS, error) {
	u := &userNS{uidMap: uidMap, gidMap: gidMap, join: noFD}
	for _, p := range []*[2]int{&u.ready, &u.done} {
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			u.close()
			return nil, fmt.Errorf("make pipe: %w", err)
		}
	}
	return u, nil
}

func (u *userNS) plan(p *program) {
	if u.join >= 0 {
		p.call("join user namespace", unix.SYS_SETNS, uintptr(u.join), unix.CLONE_NEWUSER)
		return
	}
	b := make([]byte, 1)
	p.keep = append(p.keep, b)
	addr := ptr(p, &b[0])
	p.call("make user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	p.call("announce user namespace", unix.SYS_WRITE, uintptr(u.ready[1]), addr, 1)
	// The child's copies of the zygote's ends, or it would wait for itself.
	p.call("close pipe", unix.SYS_CLOSE, uintptr(u.done[1]))
	p.call("wait for mappings", unix.SYS_READ, uintptr(u.done[0]), addr, 1)
}

// serve writes the mappings of the child. It ends early if the child does.
func (u *userNS) serve(proc fd, pidfd int) error {
	unix.Close(u.ready[1])
	u.ready[1] = -1
	var b [1]byte
	if n, err := retry(func() (int, error) { return unix.Read(u.ready[0], b[:]) }); err != nil || n == 0 {
		return nil // the child has reported why
	}
	pid, err := hostPID(proc, pidfd)
	if err != nil {
		return err
	}
	for _, m := range [][2]string{{"uid_map", u.uidMap}, {"gid_map", u.gidMap}} {
		path := pid + "/" + m[0]
		n, err := unix.Openat(int(proc), path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/proc/" + path, Err: err}
		}
		_, err = unix.Write(n, []byte(m[1]))
		unix.Close(n)
		if err != nil {
			return fmt.Errorf("write %s %q: %w", m[0], m[1], err)
		}
	}
	_, err = unix.Write(u.done[1], b[:])
	return err
}

func (u *userNS) close() {
	for _, n := range []int{u.ready[0], u.ready[1], u.done[0], u.done[1]} {
		if n > 0 {
			unix.Close(n)
		}
	}
}

// hostPID returns the number of a process in the host's /proc; the zygote knows
// it by another one, of its own pid namespace.
func hostPID(proc fd, pidfd int) (string, error) {
	n, err := unix.Openat(int(proc), fmt.Sprintf("self/fdinfo/%d", pidfd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("look up process: %w", err)
	}
	f := os.NewFile(uintptr(n), "fdinfo")
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("look up process: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if pid, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strings.TrimSpace(pid), nil
		}
	}
	return "", errors.New("look up process: it is gone")
}
