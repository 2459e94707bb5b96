package userns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Name is argv[0] of the process that waits for its IDs.
const Name = "buildd-userns"

const (
	// marker is the environment variable that tells the program it is inside: the
	// user's ID outside, and the process that waits there.
	marker = "_BUILDD_USERNS"
	// gateFD is where the waiting process is told that it has its IDs.
	gateFD = 3
)

// outside is what Init was told.
var outside struct {
	inside bool
	uid    int
}

// Inside tells whether Enter made this process.
func Inside() bool { return outside.inside }

// UID is the ID of the user who started the program, outside of the namespace
// that Enter made.
func UID() int {
	if outside.inside {
		return outside.uid
	}
	return os.Geteuid()
}

// Init must be called first thing in main. It does not return in the process that
// waits for its IDs, nor where it cannot be done.
func Init() {
	var err error
	switch value, inside := os.LookupEnv(marker); {
	case len(os.Args) > 0 && os.Args[0] == Name:
		err = await()
	case inside:
		err = settle(value)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "buildd: enter user namespace: %v\n", err)
		os.Exit(1)
	}
}

// await waits until the parent has mapped IDs, and becomes the program.
func await() error {
	gate := os.NewFile(gateFD, "gate")
	if n, err := gate.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the parent gave up: %w", err)
	}
	gate.Close()
	if len(os.Args) < 2 {
		return errors.New("no arguments")
	}
	return os.NewSyscallError("execute", syscall.Exec("/proc/self/exe", os.Args[1:], os.Environ()))
}

// settle takes possession of the namespaces.
func settle(value string) error {
	if err := os.Unsetenv(marker); err != nil {
		return err
	}
	uid, parent, ok := strings.Cut(value, " ")
	var pid int
	var err error
	if outside.uid, err = strconv.Atoi(uid); err == nil && ok {
		pid, err = strconv.Atoi(parent)
	}
	if err != nil || !ok {
		return fmt.Errorf("environment variable %s: %q is not what a parent says", marker, value)
	}
	// What becoming root has undone: the end with the parent, and that /proc/self
	// belongs to us.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return os.NewSyscallError("ask for a signal at the parent's end", err)
	}
	if os.Getppid() != pid {
		return errors.New("the parent has ended")
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("become dumpable", err)
	}
	// No mount of ours shows outside; what is unmounted there is not kept busy.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from spreading: %w%s", err, advice())
	}
	outside.inside = true
	return nil
}
