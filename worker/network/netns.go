package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// netNS is a network namespace, held by a descriptor of the daemon and named by
// its place in /proc: so it goes with the daemon, however that ends, and with it
// its devices.
type netNS struct {
	file *os.File
}

// makeNetNS makes a network namespace with its loopback device up.
func makeNetNS() (netNS, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, err := func() (*os.File, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, fmt.Errorf("unshare: %w", err)
			}
			if err := loopbackUp(); err != nil {
				return nil, err
			}
			return os.Open("/proc/thread-self/ns/net")
		}()
		done <- result{f, err}
	}()
	r := <-done
	if r.err != nil {
		return netNS{}, fmt.Errorf("make network namespace: %w", r.err)
	}
	return netNS{r.f}, nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	return nil
}

func (n netNS) fd() int { return int(n.file.Fd()) }

// path is valid for all processes of the host until close.
func (n netNS) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd()) }

func (n netNS) close() error {
	if n.file == nil {
		return nil
	}
	return n.file.Close()
}
