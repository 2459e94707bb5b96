// Probe looks at a container from inside, for package runtimetest.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(2)
	}
	switch os.Args[1] {
	case "calls":
		print(calls())
	case "files":
		print(files())
	case "hog":
		hog()
	case "bomb":
		bomb()
	case "term":
		term()
	case "sleep":
		fmt.Println("ready")
		time.Sleep(time.Hour)
	default:
		os.Exit(2)
	}
}

func print(v any) {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		os.Exit(1)
	}
}

// calls makes system calls that a container may not make, or may, and returns
// their errno by name.
func calls() map[string]int {
	out := make(map[string]int)
	call := func(name string, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		out[name] = int(e)
	}
	root, tmpfs, none := str("/"), str("tmpfs"), str("none")
	buf := uintptr(unsafe.Pointer(&make([]byte, 256)[0]))
	call("mount", unix.SYS_MOUNT, none, root, tmpfs, 0, 0)
	call("umount2", unix.SYS_UMOUNT2, root, 0)
	call("fsopen", unix.SYS_FSOPEN, tmpfs, 0)
	call("open_tree", unix.SYS_OPEN_TREE, 0, root, unix.OPEN_TREE_CLONE)
	call("move_mount", unix.SYS_MOVE_MOUNT, 0, root, 0, root, 0)
	call("pivot_root", unix.SYS_PIVOT_ROOT, root, root)
	call("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	call("unshare mount", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	call("setns", unix.SYS_SETNS, 0, 0)
	call("clone user", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0)
	call("clone3", unix.SYS_CLONE3, 0, 0)
	call("add_key", unix.SYS_ADD_KEY, none, none, none, 1, 0)
	call("keyctl", unix.SYS_KEYCTL, 0, 0)
	call("bpf", unix.SYS_BPF, 0, buf, 64)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, buf, 0, 0, 0, 0)
	call("ptrace", unix.SYS_PTRACE, unix.PTRACE_PEEKDATA, 1<<22, 0, 0)
	call("clock_settime", unix.SYS_CLOCK_SETTIME, 0, buf)
	call("settimeofday", unix.SYS_SETTIMEOFDAY, buf, 0)
	call("init_module", unix.SYS_INIT_MODULE, 0, 0, none)
	call("finit_module", unix.SYS_FINIT_MODULE, 0, none, 0)
	call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)
	call("reboot", unix.SYS_REBOOT, 0, 0, 0, 0)
	call("swapon", unix.SYS_SWAPON, root, 0)
	call("acct", unix.SYS_ACCT, 0)
	call("syslog", unix.SYS_SYSLOG, 10, 0, 0)
	call("quotactl", unix.SYS_QUOTACTL, 0, 0, 0, 0)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, buf, 0)
	call("userfaultfd", unix.SYS_USERFAULTFD, 0)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, buf)
	call("personality", unix.SYS_PERSONALITY, 0x0200000)
	call("socket vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	call("socket alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	call("unknown", 5000)
	// And some that it may make.
	call("getpid", unix.SYS_GETPID)
	call("chroot", unix.SYS_CHROOT, root)
	call("socket inet", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0)
	call("socket raw", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	call("personality linux", unix.SYS_PERSONALITY, 0)
	call("personality query", unix.SYS_PERSONALITY, 0xffffffff)
	call("sched_yield", unix.SYS_SCHED_YIELD)
	return out
}

var kept [][]byte

func str(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// files returns the descriptors that the process has, and where they lead; those
// of the Go runtime itself are left out.
func files() map[int]string {
	out := make(map[int]string)
	for fd := range 4096 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			name = err.Error()
		}
		if name == "anon_inode:[eventpoll]" || name == "anon_inode:[eventfd]" || strings.HasPrefix(name, "/sys/fs/cgroup/cpu") {
			continue
		}
		out[fd] = name
	}
	return out
}

// hog uses up to the given number of MiB.
func hog() {
	n, _ := strconv.Atoi(os.Args[2])
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	fmt.Println("done")
}

// bomb starts processes until it may not, and prints how many it could.
func bomb() {
	self := "/proc/self/exe"
	for n := range 100000 {
		_, err := syscall.ForkExec(self, []string{"probe", "sleep"}, nil)
		if err != nil {
			print(map[string]any{"started": n, "error": err.Error()})
			return
		}
	}
	print(map[string]any{"started": 100000})
}

// term says when it has got SIGTERM, and exits with 7.
func term() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	fmt.Println("ready")
	<-c
	fmt.Println("terminated")
	os.Exit(7)
}
