package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// buildah runs Debian's buildah, which has no daemon, with overlayfs and the same
// runc as BuildKit.
type buildah struct {
	dir     string
	network string // of RUN
	peak    atomic.Int64
}

// containersConf makes buildah find Debian's CNI plugins and leave /etc alone.
const containersConf = `[engine]
cgroup_manager = "cgroupfs"
[network]
cni_plugin_dirs = ["/usr/lib/cni"]
network_config_dir = "%s"
`

func (b *buildah) name() string { return "buildah" }
func (b *buildah) close() error { return nil }

func (b *buildah) fresh(ctx context.Context, network string) error {
	b.peak.Store(0)
	b.network = map[string]string{"host": "host", "own": "private"}[network]
	state := filepath.Join(b.dir, "state")
	if _, err := os.Stat(state); err == nil {
		// containers are mounted
		if _, err := b.run(ctx, "rm", "--all"); err != nil {
			return err
		}
	}
	if err := setAside(state); err != nil {
		return fmt.Errorf("empty the state of buildah: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(state, "run"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "containers.conf"), fmt.Appendf(nil, containersConf, filepath.Join(state, "net.d")), 0o600)
}

// run runs buildah and returns what it wrote.
func (b *buildah) run(ctx context.Context, args ...string) ([]byte, error) {
	state := filepath.Join(b.dir, "state")
	cmd := exec.CommandContext(ctx, "buildah", append([]string{
		"--root", filepath.Join(state, "root"), "--runroot", filepath.Join(state, "run"), "--storage-driver", "overlay",
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "TMPDIR="+state, "CONTAINERS_CONF="+filepath.Join(b.dir, "containers.conf"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	b.log(args, out.Bytes())
	if cmd.ProcessState != nil {
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		for old := b.peak.Load(); usage.Maxrss<<10 > old && !b.peak.CompareAndSwap(old, usage.Maxrss<<10); {
			old = b.peak.Load()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("buildah %s: %w\n%s", args[0], err, out.Bytes()[max(0, out.Len()-2000):])
	}
	return out.Bytes(), nil
}

// log keeps what buildah wrote with its state, for those who keep that.
func (b *buildah) log(args []string, out []byte) {
	if f, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		fmt.Fprintf(f, "buildah %q\n%s\n", args, out)
		f.Close()
	}
}

func (b *buildah) memory() (memory, error) { return memory{peak: b.peak.Load()}, nil }

func (b *buildah) build(ctx context.Context, r request) (outcome, error) {
	file := r.file
	if file == "" {
		file = "Dockerfile"
	}
	args := []string{
		"build", "--layers", "--isolation=oci", "--runtime=runc", "--network=" + b.network, "--tls-verify=false",
		"-f", filepath.Join(r.dir, file), "-t", "result",
	}
	if r.parallel > 0 {
		args = append(args, "--jobs", strconv.Itoa(r.parallel))
	}
	if r.cacheTo != "" {
		args = append(args, "--cache-to", r.cacheTo)
	}
	if r.cacheFrom != "" {
		args = append(args, "--cache-from", r.cacheFrom)
	}
	for k, v := range r.args {
		args = append(args, "--build-arg", k+"="+v)
	}
	out, err := b.run(ctx, append(args, r.dir)...)
	if err != nil {
		return outcome{}, err
	}
	if r.push != "" {
		if _, err := b.run(ctx, "push", "--tls-verify=false", "result", "docker://"+r.push); err != nil {
			return outcome{}, err
		}
	}
	if r.archive != "" {
		if _, err := b.run(ctx, "push", "result", "oci-archive:"+r.archive); err != nil {
			return outcome{}, err
		}
	}
	if r.parallel > 0 {
		// lines of several stages are mixed: what counts is what steps printed,
		// beside their commands
		return outcome{ran: bytes.Count(out, []byte(ranLine)) - bytes.Count(out, []byte("echo "+ranLine))}, nil
	}
	return readSteps(out), nil
}

// readSteps tells from buildah's output which steps it ran: what comes from the
// cache is said below the step.
func readSteps(b []byte) outcome {
	var o outcome
	step, cached := "", false
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.Contains(line, "STEP "):
			o.add(step, cached)
			_, step, _ = strings.Cut(line, ": ")
			cached = false
		case strings.Contains(line, "--> Using cache"):
			cached = true
		}
	}
	o.add(step, cached)
	return o
}
