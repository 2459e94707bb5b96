package native

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/worker/runtime/native/zygote"
)

// attributes are the mount options that are not the file system's. mount(8) and
// the runtime-spec, "Linux mount options", say what they mean.
var attributes = map[string]struct{ set, clear uint64 }{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rro":           {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME},
	"relatime":      {clear: unix.MOUNT_ATTR__ATIME},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"norelatime":    {},
	"atime":         {},
	"nostrictatime": {},
	"defaults":      {},
}

// mount translates one mount of a spec.
func mount(m specs.Mount) (zygote.Mount, error) {
	t := zygote.Mount{Kind: zygote.KindFS, Target: m.Destination, Source: m.Source, FSType: m.Type}
	if !strings.HasPrefix(m.Destination, "/") {
		return t, fmt.Errorf("destination %q: want an absolute path", m.Destination)
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return t, fmt.Errorf("ID-mapped mounts are not supported by the native runtime")
	}
	if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
		t.Kind, t.FSType = zygote.KindBind, ""
		t.Source = hostPath(m.Source)
		if !strings.HasPrefix(t.Source, "/") {
			return t, fmt.Errorf("source %q: want an absolute path", m.Source)
		}
	}
	for _, o := range m.Options {
		if err := option(&t, o); err != nil {
			return t, err
		}
	}
	switch {
	case t.Kind == zygote.KindBind:
	case m.Type == "proc":
		t.Kind = zygote.KindProc
	case m.Type == "cgroup" || m.Type == "cgroup2":
		t.Kind, t.Data = zygote.KindGroup, nil
	case m.Type == "":
		return t, fmt.Errorf("no type: want bind or a file system")
	}
	return t, nil
}

func option(t *zygote.Mount, o string) error {
	switch o {
	case "bind", "private", "rprivate":
		return nil
	case "rbind":
		t.Recursive = true
		return nil
	case "slave", "rslave":
		t.Slave = true
		return nil
	case "shared", "rshared", "unbindable", "runbindable", "remount", "idmap", "ridmap", "tmpcopyup":
		return fmt.Errorf("option %s is not supported by the native runtime", o)
	}
	if a, ok := attributes[o]; ok {
		t.Set = t.Set&^a.clear | a.set
		t.Clear = t.Clear&^a.set | a.clear
		return nil
	}
	if t.Kind == zygote.KindBind {
		return fmt.Errorf("option %s is not one of a bind mount", o)
	}
	t.Data = append(t.Data, o)
	return nil
}
