package zygote

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/worker/runtime/native/seccomp"
)

// In a user namespace with one ID no file can be given to anybody else. A process
// with KeepOwner believes that it can: a seccomp filter has the zygote asked
// about chown and its kin, and the zygote keeps the owner in the extended
// attribute that layers are read with (digest.OwnerXattr). Links, devices and the
// like cannot have it and stay root's.

const (
	ownerFD = firstFD // of a child with KeepOwner: where it sends its listener
	// aboveFDs is a number that no descriptor of a child has by itself.
	aboveFDs   = 16
	listenerFD = aboveFDs // of such a child, until it executes
)

// chowns is the filter, and the calls that it asks about.
var chowns = sync.OnceValues(func() (f struct {
	code  []unix.SockFilter
	calls map[seccomp.Call]string
}, err error) {
	f.code, f.calls, err = seccomp.Notify(func(arch string) []string {
		if arch == "SCMP_ARCH_X86" || arch == "SCMP_ARCH_ARM" { // whose chown has IDs of 16 bits
			return []string{"chown32", "lchown32", "fchown32", "fchownat"}
		}
		return []string{"chown", "lchown", "fchown", "fchownat"}
	})
	return f, err
})

// owners takes a child's listener.
type owners struct{ ours, theirs int }

func newOwners() (*owners, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(fds[1])
	theirs, err := unix.FcntlInt(uintptr(fds[1]), unix.F_DUPFD_CLOEXEC, aboveFDs)
	if err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("keep socket: %w", err)
	}
	return &owners{fds[0], theirs}, nil
}

func (o *owners) close() {
	unix.Close(o.ours)
	unix.Close(o.theirs)
}

// plan has the child load the filter and send its listener. Where another
// listener is in place already, nothing comes, and chown fails as it does without
// one.
func (o *owners) plan(p *program) error {
	f, err := chowns()
	if err != nil {
		return err
	}
	p.keep = append(p.keep, f.code)
	prog := &unix.SockFprog{Len: uint16(len(f.code)), Filter: &f.code[0]}
	rights, one := unix.UnixRights(listenerFD), []byte{1}
	p.keep = append(p.keep, rights, one)
	iov := &unix.Iovec{Base: &one[0]}
	iov.SetLen(1)
	msg := &unix.Msghdr{Iov: iov, Control: &rights[0]}
	msg.SetIovlen(1)
	msg.SetControllen(len(rights))
	load := p.call("load filter of owners", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, ptr(p, prog)).passing(passAll, 3)
	listener := p.result(load)
	p.call("name listener", unix.SYS_DUP3, 0, listenerFD, unix.O_CLOEXEC).use(0, listener)
	p.call("send listener", unix.SYS_SENDMSG, ownerFD, ptr(p, msg), 0)
	p.call("close socket", unix.SYS_CLOSE, ownerFD)
	return nil
}

// serve answers for as long as a process has the filter. The child has executed.
func (o *owners) serve(b base) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(o.ours, make([]byte, 1), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return
	}
	fds, err := parseRights(oob[:n])
	if err != nil || len(fds) != 1 {
		return
	}
	go func() {
		runtime.LockOSThread() // and never unlocked: its root is a container's
		defer unix.Close(fds[0])
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return
		}
		for answer(b, fds[0]) {
		}
	}()
}

// notification and response are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// answer waits for a call and answers it. It returns false when there is nobody
// left to ask.
func answer(b base, listener int) bool {
	fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
	if _, err := retry(func() (int, error) { return unix.Poll(fds, -1) }); err != nil || fds[0].Revents&unix.POLLIN == 0 {
		return false
	}
	n := &notification{}
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n)); err != nil {
		return err == unix.ENOENT || err == unix.EINTR // the process is gone
	}
	r := &response{id: n.id}
	err := chown(b, n, func() bool { return ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&n.id)) == nil })
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		r.errno = -int32(errno)
	case err != nil:
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r)) // else it is gone
	return true
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// errElse says that the kernel is to carry out the call itself.
var errElse = errors.New("not for us")

// chown does what the call asks for. An error that is no errno leaves it to the
// kernel. valid tells whether the process is still the one that asked.
func chown(b base, n *notification, valid func() bool) error {
	f, err := chowns()
	if err != nil {
		return errElse
	}
	at, pathAt, flags, ids := int32(unix.AT_FDCWD), n.args[0], uint64(0), n.args[1:3]
	switch strings.TrimSuffix(f.calls[seccomp.Call{Arch: n.arch, Nr: uint32(n.nr)}], "32") {
	case "chown":
	case "lchown":
		flags = unix.AT_SYMLINK_NOFOLLOW
	case "fchown":
		at, pathAt = int32(n.args[0]), 0
	case "fchownat":
		at, pathAt, flags, ids = int32(n.args[0]), n.args[1], n.args[4]&0xffffffff, n.args[2:4]
		if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
			return unix.EINVAL
		}
	default:
		return errElse
	}
	name := ""
	if pathAt != 0 {
		if name, err = readString(int(n.pid), uintptr(pathAt)); err != nil {
			return errElse
		}
		if name == "" && flags&unix.AT_EMPTY_PATH == 0 {
			return unix.ENOENT
		}
	}
	target, err := openOf(b, int(n.pid), at, name, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return err
	}
	defer target.close()
	if !valid() {
		return errElse
	}
	return keepOwner(b, target, uint32(ids[0]), uint32(ids[1]))
}

// readString reads a path from a process's memory.
func readString(pid int, addr uintptr) (string, error) {
	const page = 4096
	var out []byte
	for len(out) < unix.PathMax {
		buf := make([]byte, page-int(addr+uintptr(len(out)))%page) // no further than what must be there
		n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}},
			[]unix.RemoteIovec{{Base: addr + uintptr(len(out)), Len: len(buf)}}, 0)
		if err != nil {
			return "", err
		}
		for i, c := range buf[:n] {
			if c == 0 {
				return string(append(out, buf[:i]...)), nil
			}
		}
		out = append(out, buf[:n]...)
	}
	return "", unix.ENAMETOOLONG
}

// openOf opens what a name means to a process: by its root, and its working
// directory or an open file.
func openOf(b base, pid int, at int32, name string, follow bool) (fd, error) {
	of := func(what string, flags int) (fd, error) {
		n, err := retry(func() (int, error) {
			return unix.Openat(int(b.own), strconv.Itoa(pid)+"/"+what, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
		})
		return fd(n), err
	}
	start := "cwd"
	if at != unix.AT_FDCWD {
		start = "fd/" + strconv.Itoa(int(at))
	}
	if name == "" {
		f, err := of(start, 0)
		if err == unix.ENOENT {
			err = unix.EBADF
		}
		return f, err
	}
	if open, ok := strings.CutPrefix(name, "/proc/self/fd/"); ok && follow { // self is not this process
		return of("fd/"+open, 0)
	}
	root, err := of("root", unix.O_DIRECTORY)
	if err != nil {
		return noFD, errElse
	}
	defer root.close()
	if name[0] == '/' {
		start = "root"
	}
	dir, err := of(start, unix.O_DIRECTORY)
	if err != nil {
		return noFD, errElse // the kernel says what is wrong with it
	}
	defer dir.close()
	// With that as this thread's own root and directory, the kernel resolves the
	// name as it would for the process.
	if err := errors.Join(unix.Fchdir(int(root)), unix.Chroot("."), unix.Fchdir(int(dir))); err != nil {
		return noFD, errElse
	}
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	n, err := retry(func() (int, error) { return unix.Open(name, flags, 0) })
	return fd(n), err
}

// keepOwner gives a file its owner, as far as the attribute can say it. An ID of
// -1 leaves what is there.
func keepOwner(b base, target fd, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(target), &st); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	n, err := retry(func() (int, error) {
		return unix.Openat(int(b.own), "self/fd/"+strconv.Itoa(int(target)), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	defer unix.Close(n)
	const same = ^uint32(0)
	buf := make([]byte, 64)
	var oldUID, oldGID uint32
	if size, err := unix.Fgetxattr(n, digest.OwnerXattr, buf); err == nil {
		oldUID, oldGID, _ = digest.ParseOwner(string(buf[:size]))
	}
	if uid == same {
		uid = oldUID
	}
	if gid == same {
		gid = oldGID
	}
	if uid == 0 && gid == 0 {
		err = unix.Fremovexattr(n, digest.OwnerXattr)
	} else {
		err = unix.Fsetxattr(n, digest.OwnerXattr, []byte(digest.FormatOwner(uid, gid)), 0)
	}
	if err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
		return err
	}
	return dropBits(n, st.Mode)
}

// dropBits takes from a file that changes its owner what would let others act as
// him; see chown(2).
func dropBits(file int, mode uint32) error {
	left := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		left &^= unix.S_ISGID
	}
	if mode&unix.S_IFMT != unix.S_IFREG || left == mode {
		return nil
	}
	return unix.Fchmod(file, left&0o7777)
}
