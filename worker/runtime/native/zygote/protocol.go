package zygote

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// Request asks for a process, in a new container or in one that runs. The
// process's standard streams go along as descriptors.
type Request struct {
	ID        string
	Container *Container `json:",omitempty"` // nil: the process joins container ID
	Process   Process
}

// Container is what the namespaces and the root of a container are made of.
type Container struct {
	Root         string
	ReadonlyRoot bool
	NoDevices    bool // device nodes of the root do not work
	Hostname     string
	Domainname   string

	// NewNet makes a network namespace with a loopback device, Net joins one by
	// its path; neither leaves the process in the daemon's.
	NewNet bool
	Net    string

	Mounts   []Mount
	Devices  []Device
	Masked   []string
	Readonly []string
	Sysctl   map[string]string

	// UIDMap and GIDMap, in the format of /proc/PID/uid_map, ask for a user
	// namespace.
	UIDMap string
	GIDMap string

	// Tasks are the "tasks" files of control groups v1, Cgroup a directory of
	// control groups v2; both may be empty.
	Tasks  []string
	Cgroup string

	// Rootless: device nodes cannot be made, so the host's are bound.
	Rootless bool
}

// Kind says how a mount is made.
type Kind string

const (
	KindBind  Kind = "bind"  // of Source on the host
	KindFS    Kind = "fs"    // a new instance of file system FSType
	KindProc  Kind = "proc"  // made by the container's first process
	KindGroup Kind = "group" // a tmpfs with one bind per control group hierarchy
)

// Mount is one mount of a container.
type Mount struct {
	Kind   Kind
	Target string
	Source string   // KindBind, KindFS
	FSType string   // KindFS
	Data   []string // KindFS: options, "name" or "name=value"
	// Set and Clear are MOUNT_ATTR_ flags; Recursive applies them, and the bind,
	// to the mounts below as well.
	Set, Clear uint64
	Recursive  bool
	Slave      bool // mounts that the host makes below Source later are seen
	// Groups are the binds of KindGroup: name of the directory and its source.
	Groups [][2]string
}

// Device is a device node.
type Device struct {
	Path         string
	Mode         uint32 // type and permissions
	Major, Minor uint32
	UID, GID     int
}

// Process is what to execute, and as whom.
type Process struct {
	Args   []string
	Env    []string
	Cwd    string
	UID    int
	GID    int
	Groups []int
	Umask  int
	// StreamUID is who owns the standard streams, so that /dev/stdout and its
	// like can be opened; an ID of the host.
	StreamUID int

	Terminal   bool
	Rows, Cols uint16

	Bounding, Effective, Permitted, Inheritable, Ambient uint64
	NoNewPrivs                                           bool
	// KeepOwner lets the process give files to users that there are not.
	KeepOwner bool

	Filter      []byte `json:",omitempty"` // seccomp program, struct sock_filter
	FilterFlags uintptr
	Rlimits     []Rlimit
	OOMScoreAdj *int
	AppArmor    string
	Personality *uint64
}

// Rlimit is one resource limit.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Reply is what the zygote tells of a process: either Error alone, or Started
// and later Ended.
type Reply struct {
	Started bool
	Ended   bool
	Status  uint32 // wait status, with Ended
	// Error: the process was not executed. NotFound and Denied say that it is the
	// command's fault, Gone that there is no such container.
	Error    string
	NotFound bool
	Denied   bool
	Gone     bool
}

// Order is what the daemon asks for while a process runs.
type Order struct {
	Signal int
}

const maxMessage = 64 << 20

// writeMessage writes v with its length before it, and descriptors along.
func writeMessage(c *net.UnixConn, v any, fds ...int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	buf := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	buf = append(buf, body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(buf, oob, nil)
	if err == nil && n < len(buf) {
		_, err = c.Write(buf[n:])
	}
	return err
}

// readMessage reads what writeMessage wrote. io.EOF means that the other side is
// gone. The descriptors that came along are the caller's, and close on exec.
func readMessage(c *net.UnixConn, v any) ([]int, error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return fds, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > maxMessage {
		return fds, fmt.Errorf("message of %d bytes: want at most %d", size, maxMessage)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return fds, err
	}
	return fds, json.Unmarshal(body, v)
}

// maxFiles is how many descriptors a message carries at most.
const maxFiles = 4

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var all []int
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("parse descriptors: %w", err)
		}
		all = append(all, fds...)
	}
	return all, nil
}
