package runtimetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime"
)

type sandbox = runtime.Sandbox

// hostileRoot runs containers on roots that try to lead the runtime out of them.
func (s *suite) hostileRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(file, []byte("nameserver 192.0.2.1\n"), 0o644))
	resolv := specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: file, Options: []string{"bind", "ro"}}
	for name, h := range map[string]struct {
		trap   func(root, victim string) error
		mounts []specs.Mount
		args   []string
		cwd    string
	}{
		"proc up":       {trap: link("proc", "../victim")},
		"proc absolute": {trap: link("proc", "VICTIM")},
		"sys up":        {trap: link("sys", "../victim")},
		"dev up":        {trap: link("dev", "../victim")},
		"dev absolute":  {trap: link("dev", "VICTIM")},
		"dev far up":    {trap: link("dev", "../../../../../../../../../../VICTIM")},
		"etc up":        {trap: link("etc", "../victim"), mounts: []specs.Mount{resolv}},
		"etc absolute":  {trap: link("etc", "VICTIM"), mounts: []specs.Mount{resolv}},
		"file up":       {trap: link("etc/resolv.conf", "../../victim/file"), mounts: []specs.Mount{resolv}},
		"file absolute": {trap: link("etc/resolv.conf", "VICTIM/file"), mounts: []specs.Mount{resolv}},
		"file new":      {trap: link("etc/resolv.conf", "../../victim/new"), mounts: []specs.Mount{resolv}},
		"target up": {
			trap:   link("mnt", "../../../../../../../../../.."),
			mounts: []specs.Mount{{Destination: "/mnt/VICTIM/dir", Type: "tmpfs", Source: "tmpfs"}},
		},
		"target new": {
			trap:   link("mnt", "../victim"),
			mounts: []specs.Mount{{Destination: "/mnt/new/dir", Type: "tmpfs", Source: "tmpfs"}},
		},
		"masked up": {trap: link("proc", "../victim"), mounts: []specs.Mount{}},
		"cwd to a descriptor": {
			trap: func(string, string) error { return nil }, cwd: "/proc/self/fd/7",
			args: []string{"/bin/ls", "-A", "../../../../../../.."},
		},
		"cwd by a link": {
			trap: link("tmp/cwd", "/proc/self/fd/8/"), cwd: "/tmp/cwd",
			args: []string{"/bin/ls", "-A", "../../../../../../.."},
		},
		"console": {trap: link("dev", "../victim")},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			root := Rootfs(t)
			victim := filepath.Join(filepath.Dir(root), "victim")
			must(t, os.Mkdir(victim, 0o755))
			must(t, os.WriteFile(filepath.Join(victim, "file"), []byte("untouched"), 0o644))
			must(t, h.trap(root, victim))
			for i, m := range h.mounts {
				h.mounts[i].Destination = strings.ReplaceAll(m.Destination, "/VICTIM", victim)
			}
			r := s.run(t, func(c *container) {
				c.Root, c.Cwd, c.Mounts = root, h.cwd, h.mounts
				c.Args = h.args
				if h.args == nil {
					c.Args = []string{"/bin/sh", "-c", "touch /etc/made /dev/made; true"}
				}
				c.Terminal = name == "console"
			})
			t.Logf("%v", r.err)
			if r.err == nil && h.args != nil && strings.Contains(r.stdout, "vmlinuz") {
				t.Errorf("the host's root is in reach: %s", r.stdout)
			}
			entries, err := os.ReadDir(victim)
			must(t, err)
			if len(entries) != 1 {
				t.Errorf("something was made on the host: %v", entries)
			}
			if b, _ := os.ReadFile(filepath.Join(victim, "file")); string(b) != "untouched" {
				t.Errorf("a file of the host was written: %q", b)
			}
			info, err := os.ReadFile("/proc/self/mountinfo")
			must(t, err)
			if strings.Contains(string(info), victim) {
				t.Errorf("something is mounted on the host's %s", victim)
			}
		})
	}
}

// link returns a trap: a link in place of what the root has there. VICTIM in the
// target stands for the directory outside.
func link(at, target string) func(root, victim string) error {
	return func(root, victim string) error {
		path := filepath.Join(root, at)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		target = strings.ReplaceAll(target, "/VICTIM", victim)
		return os.Symlink(strings.ReplaceAll(target, "VICTIM", victim), path)
	}
}
