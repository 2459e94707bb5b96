package oci

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime"
)

// console is a terminal of the host that the program has for its own. It makes
// another one in the container and passes on what is written to either; to hand
// that one over (--console-socket) is only for containers that it does not wait
// for.
type console struct {
	master, slave *os.File
	p             runtime.Process
	done          chan struct{} // closed when all output is written
}

func newConsole(p runtime.Process) (*console, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	c := &console{master: master, p: p, done: make(chan struct{})}
	err = c.control(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		c.slave = os.NewFile(n, "terminal")
		return nil
	})
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return c, nil
}

func (c *console) control(f func(fd int) error) error {
	raw, err := c.master.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	if err == nil {
		err = cerr
	}
	return err
}

// start copies until the last of those that have the slave has closed it; it is
// called when the program has it.
func (c *console) start() {
	c.slave.Close()
	if c.p.Stdin != nil {
		go func() { _, _ = io.Copy(c.master, c.p.Stdin) }() // ends with Stdin, which the call closes
	}
	go func() {
		defer close(c.done)
		var to io.Writer = io.Discard
		if c.p.Stdout != nil {
			to = c.p.Stdout
		}
		_, _ = io.Copy(to, c.master) // EIO is a terminal's end
	}()
}

// resize sets the size; the kernel tells the program, which tells the container.
func (c *console) resize(size runtime.WinSize) {
	_ = c.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{
			Row: uint16(min(size.Rows, 0xffff)), Col: uint16(min(size.Cols, 0xffff)),
		})
	})
}

// finish waits for the rest of the output, once the process has ended.
func (c *console) finish() {
	select {
	case <-c.done:
	case <-time.After(drainTime):
	}
	c.master.Close()
	<-c.done
}
