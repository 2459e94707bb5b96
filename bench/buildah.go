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
	"syscall"
)

// buildah runs Debian's buildah, which has no daemon, with overlayfs and, as it
// starts containers without help then, chroot isolation.
type buildah struct {
	dir      string
	registry string
	peak     int64
}

func (b *buildah) name() string { return "buildah" }
func (b *buildah) close() error { return nil }

func (b *buildah) fresh(ctx context.Context, _ string) error {
	b.peak = 0
	state := filepath.Join(b.dir, "state")
	if _, err := os.Stat(state); err == nil {
		// containers are mounted
		if _, err := b.run(ctx, "rm", "--all"); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(state); err != nil {
		return fmt.Errorf("empty the state of buildah: %w", err)
	}
	return os.MkdirAll(filepath.Join(state, "run"), 0o700)
}

// run runs buildah and returns what it wrote.
func (b *buildah) run(ctx context.Context, args ...string) ([]byte, error) {
	state := filepath.Join(b.dir, "state")
	cmd := exec.CommandContext(ctx, "buildah", append([]string{
		"--root", filepath.Join(state, "root"), "--runroot", filepath.Join(state, "run"), "--storage-driver", "overlay",
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "TMPDIR="+state, "BUILDAH_ISOLATION=chroot")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		b.peak = max(b.peak, usage.Maxrss<<10)
	}
	if err != nil {
		return nil, fmt.Errorf("buildah %s: %w\n%s", args[0], err, out.Bytes()[max(0, out.Len()-2000):])
	}
	return out.Bytes(), nil
}

func (b *buildah) memory() (memory, error) { return memory{peak: b.peak}, nil }

func (b *buildah) build(ctx context.Context, r request) (outcome, error) {
	file := r.file
	if file == "" {
		file = "Dockerfile"
	}
	args := []string{
		"build", "--layers", "--jobs", strconv.Itoa(16), "--network=host", "--tls-verify=false", "--pull=always",
		"-f", filepath.Join(r.dir, file), "-t", "result",
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
	return readSteps(out), nil
}

// readSteps tells from buildah's output which RUN steps it ran: what comes from
// the cache is said below the step.
func readSteps(b []byte) outcome {
	var o outcome
	run := false
	for line := range strings.Lines(string(b)) {
		switch {
		case strings.Contains(line, "STEP "):
			_, step, _ := strings.Cut(line, ": ")
			run = strings.HasPrefix(step, "RUN ")
			if run {
				o.ran++
			}
		case run && strings.Contains(line, "--> Using cache"):
			o.ran--
			o.cached++
			run = false
		}
	}
	return o
}
