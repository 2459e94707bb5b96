package connect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// lockedFor is how long a client waits for a state directory that a daemon
	// of another kind has.
	lockedFor = time.Minute
	// endFor is how long a client waits for its daemon to end.
	endFor = 30 * time.Second
)

// What a supervisor tells its clients, a line each. After the last one its log
// follows.
const (
	saysReady  = "ready"
	saysBusy   = "busy"
	saysLocked = "locked"
	saysFailed = "failed"
)

// lifeline is a client's hold on a daemon that was started for clients: while it
// is open, and no longer, the daemon lives.
type lifeline struct {
	addr string
	conn *net.UnixConn
}

// release lets go of the daemon and waits until it has ended, if it was the last
// to do so. It tells the user if the daemon ended of itself before.
func (l *lifeline) release() {
	_ = l.conn.CloseWrite()
	_ = l.conn.SetReadDeadline(time.Now().Add(endFor))
	said, _ := io.ReadAll(l.conn)
	if log, ok := strings.CutPrefix(string(said), saysFailed+"\n"); ok {
		fmt.Fprintf(os.Stderr, "the daemon ended early:\n%s\n", strings.TrimSpace(log))
	}
	l.conn.Close()
}

// startDaemon returns a hold on the daemon of the state directory root, which is
// started if no other client has one.
func startDaemon(ctx context.Context, root string) (*lifeline, error) {
	p, err := newPlaces(root)
	if err != nil {
		return nil, err
	}
	program, err := findDaemon()
	if err != nil {
		return nil, err
	}
	for {
		conn, err := join(p)
		if err != nil {
			if conn, err = spawn(p, program); err != nil {
				return nil, err
			}
		}
		l, err := settle(ctx, p, conn)
		if l != nil || err != nil {
			return l, err
		}
		select { // another client's supervisor begins or ends
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// findDaemon looks for buildd where this program lies and in $PATH.
func findDaemon() (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), "buildd")
		if fi, err := os.Stat(beside); err == nil && fi.Mode().IsRegular() {
			return beside, nil
		}
	}
	if found, err := exec.LookPath("buildd"); err == nil {
		return filepath.Abs(found)
	}
	return "", fmt.Errorf("no daemon listens at %s, and there is no buildd beside %s or in $PATH to start one with: name a daemon with --addr or $BUILDKIT_HOST",
		strings.Join(defaultAddresses(), " or "), self)
}

// join becomes a client of a supervisor that is there.
func join(p places) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: p.control, Net: "unix"})
}

// spawn starts a supervisor, of which the caller is the first client.
func spawn(p places, program string) (*net.UnixConn, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "supervisor")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", SuperviseCommand, "--root", p.root, "--daemon", program)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Dir = "/"
	// In a session of its own it gets none of the terminal's signals: it ends by
	// what its clients do.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	go cmd.Wait() // nothing is left of it when it ends before us
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

// settle waits until the supervisor says what became of the daemon. Without a
// result and an error there is none: try again.
func settle(ctx context.Context, p places, conn *net.UnixConn) (_ *lifeline, err error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			conn.Close()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, fmt.Errorf("state directory %s: another buildd has had it for %s: name that daemon with --addr or $BUILDKIT_HOST, or another directory with --root", p.root, lockedFor)
			}
			return nil, nil
		}
		switch strings.TrimSpace(line) {
		case saysReady:
			if !stop() {
				return nil, context.Cause(ctx)
			}
			return &lifeline{addr: "unix://" + p.daemon, conn: conn}, conn.SetReadDeadline(time.Time{})
		case saysBusy:
			conn.Close()
			return nil, nil
		case saysLocked:
			fmt.Fprintf(os.Stderr, "waiting: another buildd has the state directory %s\n", p.root)
			_ = conn.SetReadDeadline(time.Now().Add(lockedFor))
		case saysFailed:
			said, _ := io.ReadAll(r)
			conn.Close()
			return nil, fmt.Errorf("the daemon that was started on %s ended:\n%s", p.root, strings.TrimSpace(string(said)))
		default:
			conn.Close()
			return nil, fmt.Errorf("supervisor says %q", line)
		}
	}
}
