package runtime

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SpecOptions describe the container of a build step to [Spec].
type SpecOptions struct {
	ID   string // container's name, checked by CheckID
	Root string // absolute path of the mounted root file system

	Args            []string
	Env             []string // NAME=VALUE
	Cwd             string   // absolute; must exist
	UID, GID        uint32
	AdditionalGIDs  []uint32
	Hostname        string // default "buildkitsandbox", as with BuildKit
	Terminal        bool
	ReadonlyRoot    bool
	NoNewPrivileges bool

	// Mounts are added after the default ones. One at the destination of a
	// default mount takes its place; of several at one destination the last
	// wins, at the place of the first.
	Mounts []specs.Mount

	// Rlimits are none by default: the container has the daemon's.
	Rlimits   []specs.POSIXRlimit
	Resources *specs.LinuxResources
	// PidsLimit bounds the number of tasks unless Resources has a limit; 0 is
	// DefaultPidsLimit, -1 none.
	PidsLimit int64
	// CgroupParent is the control group below which the container gets its own,
	// a path from the root of the hierarchy; default "/buildd". A systemd slice
	// ("name.slice" or "name.slice:prefix:") is refused.
	CgroupParent string
	OOMScoreAdj  *int

	// Insecure is the entitlement security.insecure: all capabilities that the
	// daemon has, all devices, no seccomp filter, nothing masked or read-only.
	Insecure bool
	// Seccomp takes the place of Docker's default profile; a profile without
	// default action means no filter.
	Seccomp         *specs.LinuxSeccomp
	ApparmorProfile string

	// UIDMappings and GIDMappings, if not empty, put the container in a user
	// namespace of its own.
	UIDMappings, GIDMappings []specs.LinuxIDMapping

	// HostNetwork leaves the container in the daemon's network namespace. A
	// network.Namespace says the same by its Configure.
	HostNetwork bool

	// Rootless is set when the daemon runs as root of a user namespace without
	// privileges outside it: what cannot be had there is left out or bound from
	// the host.
	Rootless bool
}

// DefaultPidsLimit is far above what parallel compilers use and far below what
// makes a machine unusable.
const DefaultPidsLimit = 16384

const (
	defaultHostname = "buildkitsandbox"
	defaultCgroup   = "/buildd"
	defaultPath     = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Spec returns the runtime-spec of a build container, with the mounts, devices,
// capabilities, seccomp filter and masked paths that Docker and BuildKit give
// theirs. The network namespace is a new, empty one; a network.Namespace
// replaces it.
func Spec(o SpecOptions) (*specs.Spec, error) {
	o.applyDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: o.Hostname,
		Root:     &specs.Root{Path: o.Root, Readonly: o.ReadonlyRoot},
		Process:  o.process(),
		Mounts:   mergeMounts(append(defaultMounts(o), o.Mounts...)),
		Linux:    o.linux(),
	}
	if err := o.secure(s); err != nil {
		return nil, err
	}
	return s, nil
}

func (o *SpecOptions) applyDefaults() {
	if o.Hostname == "" {
		o.Hostname = defaultHostname // what images may have come to expect of BuildKit
	}
	if o.Cwd == "" {
		o.Cwd = "/"
	}
	if o.CgroupParent == "" {
		o.CgroupParent = defaultCgroup
	}
	if o.PidsLimit == 0 {
		o.PidsLimit = DefaultPidsLimit // a fork bomb ends before the machine does
	}
	if !slices.ContainsFunc(o.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		o.Env = append([]string{defaultPath}, o.Env...)
	}
}

func (o *SpecOptions) check() error {
	if err := CheckID(o.ID); err != nil {
		return err
	}
	if !path.IsAbs(o.Root) {
		return fmt.Errorf("root %q: want an absolute path", o.Root)
	}
	if !path.IsAbs(o.Cwd) {
		return fmt.Errorf("working directory %q: want an absolute path", o.Cwd)
	}
	if len(o.Args) == 0 || o.Args[0] == "" {
		return fmt.Errorf("container %s: no command to execute", o.ID)
	}
	if strings.Contains(o.CgroupParent, ".slice") && strings.Contains(o.CgroupParent, ":") {
		return fmt.Errorf("cgroup parent %q: want a path such as /system.slice/buildd, not a systemd unit", o.CgroupParent)
	}
	for _, m := range o.Mounts {
		if !path.IsAbs(m.Destination) {
			return fmt.Errorf("mount destination %q: want an absolute path", m.Destination)
		}
	}
	return nil
}

func (o *SpecOptions) process() *specs.Process {
	return &specs.Process{
		Terminal: o.Terminal,
		User: specs.User{
			UID: o.UID, GID: o.GID, AdditionalGids: o.AdditionalGIDs,
		},
		Args:            o.Args,
		Env:             o.Env,
		Cwd:             o.Cwd,
		Rlimits:         o.Rlimits,
		NoNewPrivileges: o.NoNewPrivileges,
		ApparmorProfile: o.ApparmorProfile,
		OOMScoreAdj:     o.OOMScoreAdj,
	}
}

func (o *SpecOptions) linux() *specs.Linux {
	res := &specs.LinuxResources{}
	if o.Resources != nil {
		c := *o.Resources
		res = &c
	}
	if res.Pids == nil {
		res.Pids = &specs.LinuxPids{Limit: &o.PidsLimit}
	}
	res.Devices = append([]specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, res.Devices...)
	l := &specs.Linux{
		Resources:   res,
		CgroupsPath: path.Join("/", o.CgroupParent, o.ID),
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.CgroupNamespace},
		},
		UIDMappings: o.UIDMappings,
		GIDMappings: o.GIDMappings,
	}
	if !o.HostNetwork {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	}
	if len(o.UIDMappings) > 0 {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	}
	return l
}
