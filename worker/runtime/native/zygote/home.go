package zygote

import (
	"bufio"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPasswd bounds what is read of an image's /etc/passwd.
const maxPasswd = 4 << 20

// home adds HOME to an environment that has none, as runc does: what the
// container's /etc/passwd says of the user, else "/".
func (s *setup) home() {
	has := func(e string) bool { return strings.HasPrefix(e, "HOME=") && e != "HOME=" }
	if slices.ContainsFunc(s.p.Env, has) {
		return
	}
	s.p.Env = slices.DeleteFunc(s.p.Env, func(e string) bool { return e == "HOME=" })
	s.p.Env = append(s.p.Env, "HOME="+s.lookHome())
}

func (s *setup) lookHome() string {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	n, err := retry(func() (int, error) { return unix.Openat2(int(s.root), "etc/passwd", &how) })
	if err != nil {
		return "/"
	}
	if mode, err := fd(n).mode(); err != nil || mode != unix.S_IFREG {
		fd(n).close()
		return "/"
	}
	f := os.NewFile(uintptr(n), "passwd")
	defer f.Close()
	uid := strconv.Itoa(s.p.UID)
	for sc := bufio.NewScanner(io.LimitReader(f, maxPasswd)); sc.Scan(); {
		// name:password:uid:gid:comment:home:shell
		fields := strings.Split(sc.Text(), ":")
		if len(fields) > 5 && fields[2] == uid && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}
