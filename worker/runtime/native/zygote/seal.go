package zygote

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const selfExe = "/proc/self/exe"

// sealedSelf opens this program's file so that nobody can write to it by what
// this returns: a container that gets hold of the zygote's /proc/PID/exe must not
// change the daemon's binary through it (CVE-2019-5736).
func sealedSelf() (*os.File, error) {
	f, err := readonlySelf(selfExe)
	if err == nil {
		return f, nil
	}
	// The program may have been started from another mount namespace; its file
	// may be in this one as well.
	if path, lerr := os.Readlink(selfExe); lerr == nil && sameAsSelf(path) {
		if f, lerr := readonlySelf(path); lerr == nil {
			return f, nil
		}
	}
	f, cerr := copySelf()
	if cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	return f, nil
}

// readonlySelf opens the file by a read-only mount of its own.
func readonlySelf(path string) (*os.File, error) {
	f, err := cloneMount(unix.AT_FDCWD, path, false)
	if err != nil {
		return nil, fmt.Errorf("open own program: %w", err)
	}
	if err := f.setAttr(unix.MOUNT_ATTR_RDONLY, 0, unix.MS_PRIVATE, false); err != nil {
		f.close()
		return nil, fmt.Errorf("seal own program: %w", err)
	}
	return os.NewFile(uintptr(f), "self"), nil
}

func sameAsSelf(path string) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) == nil && unix.Stat(selfExe, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// copySelf copies the file to memory and seals it.
func copySelf() (_ *os.File, err error) {
	from, err := os.Open(selfExe)
	if err != nil {
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	defer from.Close()
	n, err := unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	to := os.NewFile(uintptr(n), "self")
	_, err = io.Copy(to, from)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		to.Close()
		return nil, fmt.Errorf("copy own program: %w", err)
	}
	return to, nil
}
