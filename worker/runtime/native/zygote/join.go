package zygote

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// member is a running container as a further process needs to know it.
type member struct {
	pidfd  int
	pts    fd
	tasks  []string
	cgroup string
	ownNet bool
	user   bool
}

// join makes a further process in a container. The zygote cannot be traced
// (PR_SET_DUMPABLE), nor can its child until it executes, whatever the
// container's processes may do to each other.
func (s *setup) join(m *member) (*process, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare file system state: %w", err)
	}
	if err := joinTasks(m.tasks); err != nil {
		return nil, err
	}
	flags := uint64(0)
	if m.cgroup != "" {
		g, err := s.own(openHostFile(m.cgroup, unix.O_PATH|unix.O_DIRECTORY))
		if err != nil {
			return nil, fmt.Errorf("open control group: %w", err)
		}
		s.cgroup = g
		flags |= unix.CLONE_INTO_CGROUP
	}
	spaces := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if m.ownNet {
		spaces |= unix.CLONE_NEWNET
	}
	switch err := unix.Setns(m.pidfd, spaces); {
	case errors.Is(err, unix.ESRCH): // it ended a moment ago
		return nil, fmt.Errorf("join namespaces: %w", errGone)
	case err != nil:
		return nil, fmt.Errorf("join namespaces: %w", err)
	}
	root, err := s.own(openHostFile("/", unix.O_PATH|unix.O_DIRECTORY)) // the container's by now
	if err != nil {
		return nil, err
	}
	s.root, s.pts = root, m.pts
	if s.p.Terminal {
		if _, err := s.openTerminal(); err != nil {
			return nil, err
		}
	}
	var user *userNS
	if m.user {
		user = &userNS{join: fd(m.pidfd)}
	}
	return s.fork(flags, user, func(*program) error { return nil })
}
