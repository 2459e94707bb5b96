package zygote

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setup is a container in the making. All its methods run on one thread that
// ends afterwards; what goes wrong half-way goes with it.
type setup struct {
	base base
	c    *Container
	p    *Process
	std  []fd // standard streams, as far as they were passed

	root    fd   // of the container
	sources []fd // detached mounts, by index of c.Mounts; noFD where made later
	groups  [][]fd
	net     fd
	cgroup  fd
	procAt  fd // where proc is to be mounted; noFD if it is not
	pts     fd // root of the container's devpts; noFD if there is none
	master  fd // of the terminal
	slave   fd
	open    []fd // to be closed
}

func newSetup(b base, c *Container, p *Process, std []fd) *setup {
	return &setup{base: b, c: c, p: p, std: std, root: noFD, net: noFD, cgroup: noFD, procAt: noFD, pts: noFD, master: noFD, slave: noFD}
}

// own has f closed with the setup.
func (s *setup) own(f fd, err error) (fd, error) {
	if err == nil {
		s.open = append(s.open, f)
	}
	return f, err
}

func (s *setup) close() {
	for _, f := range s.open {
		f.close()
	}
}

// prepare makes all of the container but its first process.
func (s *setup) prepare() error {
	// A thread of its own kind: working directory and root are no longer shared
	// with the other threads.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system state: %w", err)
	}
	for _, step := range []func() error{
		s.openHost, s.joinGroups, s.unshare, s.name, s.sysctl, s.mountRoot, s.mounts,
		s.devices, s.terminal, s.protect,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// openHost opens all that comes from the daemon's mount namespace.
func (s *setup) openHost() (err error) {
	if s.root, err = s.own(cloneMount(unix.AT_FDCWD, s.c.Root, true)); err != nil {
		return fmt.Errorf("open root file system: %w", err)
	}
	set := uint64(0)
	if s.c.NoDevices {
		set = unix.MOUNT_ATTR_NODEV
	}
	if err := s.root.setAttr(set, 0, unix.MS_PRIVATE, true); err != nil {
		return fmt.Errorf("make root file system private: %w", err)
	}
	for _, m := range s.c.Mounts {
		f, err := s.openMount(m)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		s.sources = append(s.sources, f)
		var binds []fd
		for _, g := range m.Groups {
			b, err := s.own(cloneMount(unix.AT_FDCWD, g[1], false))
			if err != nil {
				return fmt.Errorf("mount %s: %w", m.Target, err)
			}
			binds = append(binds, b)
		}
		s.groups = append(s.groups, binds)
	}
	if s.c.Net != "" {
		if s.net, err = s.own(openHostFile(s.c.Net, unix.O_RDONLY)); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
	}
	if s.c.Cgroup != "" {
		if s.cgroup, err = s.own(openHostFile(s.c.Cgroup, unix.O_PATH|unix.O_DIRECTORY)); err != nil {
			return fmt.Errorf("open control group: %w", err)
		}
	}
	return nil
}

func openHostFile(path string, flags int) (fd, error) {
	n, err := retry(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return noFD, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd(n), nil
}

// joinGroups moves the thread into the container's control groups v1; the child
// inherits them. Those of v2 cannot be joined by a thread: the child is made in
// its group.
func (s *setup) joinGroups() error { return joinTasks(s.c.Tasks) }

func joinTasks(files []string) error {
	for _, t := range files {
		f, err := openHostFile(t, unix.O_WRONLY)
		if err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
		_, err = unix.Write(int(f), []byte("0")) // the calling thread
		f.close()
		if err != nil {
			return fmt.Errorf("join control group %s: %w", filepath.Dir(t), err)
		}
	}
	return nil
}

// unshare leaves the daemon's namespaces. The child will be the first process of
// the new pid namespace.
func (s *setup) unshare() error {
	if err := unix.Setns(int(s.base.ns), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter base mount namespace: %w", err)
	}
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if s.c.Cgroup == "" {
		flags |= unix.CLONE_NEWCGROUP // with v2 the child does so, from within its group
	}
	if s.c.NewNet {
		flags |= unix.CLONE_NEWNET
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if s.net >= 0 {
		if err := unix.Setns(int(s.net), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join network namespace %s: %w", s.c.Net, err)
		}
	}
	return nil
}

func (s *setup) name() error {
	if err := unix.Sethostname([]byte(s.c.Hostname)); s.c.Hostname != "" && err != nil {
		return fmt.Errorf("set hostname %q: %w", s.c.Hostname, err)
	}
	if s.c.Domainname != "" {
		if err := unix.Setdomainname([]byte(s.c.Domainname)); err != nil {
			return fmt.Errorf("set domain name %q: %w", s.c.Domainname, err)
		}
	}
	if s.c.NewNet {
		return loopbackUp()
	}
	return nil
}

// loopbackUp starts the loopback device of the thread's network namespace.
func loopbackUp() error {
	n, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	defer unix.Close(n)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(n, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("start loopback device: %w", err)
	}
	return nil
}

// sysctl sets parameters through the host's /proc, which shows each thread those
// of its own namespaces.
func (s *setup) sysctl() error {
	for key, value := range s.c.Sysctl {
		path := "sys/" + strings.ReplaceAll(key, ".", "/")
		n, err := unix.Openat(int(s.base.proc), path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("set sysctl %s: %w", key, err)
		}
		_, err = unix.Write(n, []byte(value))
		unix.Close(n)
		if err != nil {
			return fmt.Errorf("set sysctl %s to %q: %w", key, value, err)
		}
	}
	return nil
}

// mountRoot attaches the container's root in the base namespace, where nothing
// else is.
func (s *setup) mountRoot() error {
	at, err := s.own(openHostFile("/"+baseRoot, unix.O_PATH|unix.O_DIRECTORY))
	if err != nil {
		return err
	}
	if err := s.root.attach(at); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	return nil
}
