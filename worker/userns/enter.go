package userns

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Needed tells whether the program must Enter before it can mount anything.
func Needed() bool { return os.Geteuid() != 0 }

// ExitError says how the program ended inside.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// Enter runs the program again, with the same arguments, as root of a user
// namespace, and waits for its end. The program ends if its parent does.
// Signals are passed on. The error is *ExitError if the program ran and did not
// succeed.
func Enter(log *slog.Logger) error {
	// The kernel takes the end of the thread that starts a process for the end of
	// its parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	child, err := start(log)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { // ends with the child
		for {
			select {
			case s := <-signals:
				_ = child.Process.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	err = child.Wait()
	close(ended)
	return exitError(err)
}

// forwarded are the signals that mean the program, not the process that waits for
// it.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
}

func exitError(err error) error {
	var x *exec.ExitError
	if !errors.As(err, &x) {
		return err
	}
	code := x.ExitCode()
	if w, ok := x.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		code = 128 + int(w.Signal()) // as shells have it
	}
	return &ExitError{code}
}

// start starts the program with as many IDs as can be had.
func start(log *slog.Logger) (*exec.Cmd, error) {
	ids, missing := subordinate()
	if missing == nil {
		if n := ids.least(); n < enough {
			log.Warn("fewer IDs are mapped than images use: files of others cannot be kept; widen the ranges in /etc/subuid and /etc/subgid", "IDs", n, "want", enough)
		}
		child, err := startWith(ids)
		var m *mapError
		if !errors.As(err, &m) {
			return child, err
		}
		missing = m
	}
	log.Warn("only one user ID is mapped: owners of files are remembered, but steps see all files as root's and cannot become other users; "+
		"install the package uidmap and give the user ranges of IDs in /etc/subuid and /etc/subgid", "reason", missing)
	return startWith(nil)
}

// startWith starts the program and maps IDs: the given ones or, without any, the
// user's own.
func startWith(ids *ranges) (child *exec.Cmd, err error) {
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer gate.Close()
	defer open.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{Name}, os.Args...),
		Env:   append(os.Environ(), fmt.Sprintf("%s=%d %d", marker, os.Geteuid(), os.Getpid())),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{gate},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w%s", err, advice())
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	if ids != nil {
		err = ids.assign(cmd.Process.Pid)
	} else {
		err = assignOwn(cmd.Process.Pid)
	}
	if err != nil {
		return nil, err
	}
	if _, err := open.Write([]byte{1}); err != nil {
		return nil, fmt.Errorf("let the program go on: %w", err)
	}
	return cmd, nil
}

// advice names what of this machine is in the way.
func advice() string {
	for _, s := range []struct{ file, bad, say string }{
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces=10000"},
	} {
		if b, err := os.ReadFile("/proc/sys/" + s.file); err == nil && strings.TrimSpace(string(b)) == s.bad {
			return ": this machine does not allow it to ordinary users: have root set sysctl " + s.say + ", or run buildd as root"
		}
	}
	return ": this machine may not allow it to ordinary users (a container without the right to, a security module): run buildd as root"
}
