package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// runtimes are how the daemon is told which one to use.
var runtimes = map[string][]string{"native": nil, "runc": {"--oci-worker-binary", "runc"}}

const cdiSpec = `{"cdiVersion": "0.6.0", "kind": "example.com/device", "devices": [{"name": "zero", "containerEdits": {
	"env": ["DEVICE=granted"], "deviceNodes": [{"path": "/dev/granted", "hostPath": "/dev/zero"}]}}]}`

// TestEntitlements asks for what needs one, with and without the leave of the
// daemon and of the client.
func TestEntitlements(t *testing.T) {
	cdi := t.TempDir()
	write(t, cdi, "device.json", cdiSpec)
	hostNet, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, flag, script, want string }{
		{"security.insecure", "--security=insecure", "mount -t tmpfs none /tmp && grep /tmp /proc/mounts && grep Seccomp: /proc/self/status", "Seccomp:\t0"},
		{"network.host", "--network=host", "readlink /proc/self/ns/net", hostNet},
		{"device", "--device=example.com/device=zero", "echo $DEVICE && head -c 4 /dev/granted | od", "granted\n0000000 000000 000000"},
	}
	for name, args := range runtimes {
		t.Run(name, func(t *testing.T) {
			args := append(slices.Clone(args), "--cdi-spec-dir", cdi)
			strict := startDaemon(t, args...)
			for _, c := range cases {
				args = append(args, "--allow-insecure-entitlement", c.name)
			}
			free := startDaemon(t, args...)
			strict.busybox()
			free.busybox()
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					strict, free := strict.with(t), free.with(t)
					dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN " + c.flag + " " + c.script + "\n"})
					line := "Dockerfile:2\n"
					build := []string{"build", "--progress=plain", "--no-cache", dir}
					granted := append(build, "--allow", c.name)
					free.fails([]string{line, c.name, "--allow " + c.name}, build...)
					r := strict.try(t.Context(), granted...)
					if r.Exit == 0 || !strings.Contains(r.Err, c.name) || !strings.Contains(r.Err, "not allowed") {
						t.Errorf("the daemon does not allow it: exit %d\n%s", r.Exit, r.Err)
					}
					out := filepath.Join(t.TempDir(), "out")
					dir = buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest AS a\nRUN " + c.flag + " { " + c.script + "; } > /out\nFROM scratch\nCOPY --from=a /out /\n"})
					free.ctl("build", "--progress=plain", "--allow", c.name, "-o", out, dir)
					if got := readFile(t, out, "out"); !strings.Contains(got, c.want) {
						t.Errorf("the step sees %q, want %q", got, c.want)
					}
				})
			}
			// What is granted to one build is not to the next step that does not ask.
			free.fails([]string{"Dockerfile:2\n"}, "build", "--progress=plain", "--allow", "security.insecure", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN mount -t tmpfs none /tmp\n"}))
			strict.alive()
			free.alive()
		})
	}
}

// TestResources limits a step, and looks at it from inside and from outside.
func TestResources(t *testing.T) {
	want := map[string]string{
		"memory/memory.limit_in_bytes": "67108864", "cpu/cpu.shares": "77", "cpu/cpu.cfs_quota_us": "25000", "cpu/cpu.cfs_period_us": "50000", "cpuset/cpuset.cpus": "0",
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		want = map[string]string{"memory.max": "67108864", "cpu.max": "25000 50000", "cpuset.cpus": "0"}
	}
	for name, args := range runtimes {
		t.Run(name, func(t *testing.T) {
			parent := fmt.Sprintf("/buildd-e2e-%d-%s", os.Getpid(), name)
			d := startDaemon(t, args...)
			d.busybox()
			var files []string
			for f := range want {
				files = append(files, f)
			}
			slices.Sort(files)
			dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest AS a\nARG FILES\nRUN for f in $FILES; do echo $f $(cat /sys/fs/cgroup/$f); done > /out; sleep 3.975\nFROM scratch\nCOPY --from=a /out /\n"})
			out := filepath.Join(t.TempDir(), "out")
			var eg errgroup.Group
			var r run
			eg.Go(func() error {
				r = d.try(t.Context(), "build", "--progress=plain", "--memory=64m", "--cpu-shares=77", "--cpu-period=50000", "--cpu-quota=25000", "--cpuset-cpus=0",
					"--cgroup-parent="+parent, "--build-arg", "FILES="+strings.Join(files, " "), "-o", out, dir)
				return nil
			})
			within(t, 60*time.Second, "the step sleeps", func() bool { return processes("sleep\x003.975") > 0 })
			groups := cgroupsOf(t, "sleep\x003.975")
			_ = eg.Wait()
			if r.Exit != 0 {
				t.Fatal(r.Err)
			}
			for f := range want {
				controller := "0:" // of version 2
				if dir, _, v1 := strings.Cut(f, "/"); v1 {
					controller = ":" + dir + ":"
				}
				at := strings.Index(groups, controller)
				if at < 0 {
					t.Fatalf("no %s in\n%s", controller, groups)
				}
				// Below the daemon's own group.
				if line, _, _ := strings.Cut(groups[at:], "\n"); !strings.Contains(line, parent+"/") {
					t.Errorf("%s: the step is in\n%s", f, groups)
				}
			}
			got := readFile(t, out, "out")
			for f, v := range want {
				if !strings.Contains(got, f+" "+v+"\n") {
					t.Errorf("%s is not %s:\n%s", f, v, got)
				}
			}
		})
	}
}

// cgroupsOf returns the control groups of the process with text in its command.
func cgroupsOf(t *testing.T, text string) string {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(b), text) {
			groups, err := os.ReadFile(filepath.Join(filepath.Dir(p), "cgroup"))
			if err == nil {
				return string(groups)
			}
		}
	}
	t.Fatalf("no process %q", text)
	return ""
}

// TestSourcePolicies denies, converts and pins sources.
func TestSourcePolicies(t *testing.T) {
	d := startWithBusybox(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("text")) }))
	defer web.Close()
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:nowhere\nADD " + web.URL + "/file /\nRUN test -f /bin/busybox && test -f /file\n"})
	convert := `{"action": "CONVERT", "selector": {"identifier": "docker-image://docker.io/library/busybox:nowhere"}, "updates": {"identifier": "docker-image://docker.io/library/busybox:latest"}}`
	pin := func(of string) string {
		return `{"action": "CONVERT", "selector": {"identifier": "` + web.URL + `/*"}, "updates": {"attrs": {"http.checksum": "` + digest.FromString(of).String() + `"}}}`
	}
	build := func(rules ...string) []string {
		file := t.TempDir()
		write(t, file, "policy.json", `{"rules": [`+strings.Join(rules, ",")+`]}`)
		return []string{"build", "--progress=plain", "--source-policy-file", filepath.Join(file, "policy.json"), dir}
	}
	d.ctl(build(convert, pin("text"))...)
	d.fails([]string{"Dockerfile:2\n", web.URL + "/file", digest.FromString("other").String()}, build(convert, pin("other"))...)
	d.fails([]string{"Dockerfile:1\n", "docker.io/library/busybox:latest", "polic"}, build(convert, `{"action": "DENY", "selector": {"identifier": "docker-image://*"}}`)...)
	d.fails([]string{"Dockerfile:2\n", web.URL + "/file", "polic"}, build(convert, `{"action": "DENY", "selector": {"identifier": "^http://", "match_type": "REGEX"}}`)...)
	d.fails([]string{"policy.json"}, build(`{"action": "PERHAPS"}`)...)
	d.fails([]string{"policy.json", `"matchType"`}, build(`{"action": "DENY", "selector": {"identifier": ".*", "matchType": "REGEX"}}`)...)
	d.alive()
}
