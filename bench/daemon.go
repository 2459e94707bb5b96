package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// daemon is buildd or BuildKit's daemon, each driven by its own buildctl. Both
// take the same flags and configuration.
type daemon struct {
	label   string
	program string
	client  string
	dir     string   // state, log and socket
	config  string   // buildkitd.toml
	flags   []string // beside those that both get
	debug   string   // address of profiles; empty for none
	path    string   // of programs, before what PATH says

	cmd  *exec.Cmd
	done chan error
}

func (d *daemon) name() string { return d.label }
func (d *daemon) addr() string { return "unix://" + filepath.Join(d.dir, "sock") }

func (d *daemon) fresh(ctx context.Context, network string) error {
	if err := d.close(); err != nil {
		return err
	}
	state := filepath.Join(d.dir, "state")
	if err := setAside(state); err != nil {
		return fmt.Errorf("empty the state of %s: %w", d.label, err)
	}
	if network == "own" {
		network = "bridge"
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{"--root", state, "--addr", d.addr(), "--config", d.config, "--oci-worker-net=" + network}, d.flags...)
	if d.debug != "" {
		args = append(args, "--debugaddr", d.debug)
	}
	d.cmd = exec.Command(d.program, args...)
	d.cmd.Env = append(os.Environ(), "PATH="+d.path+":"+os.Getenv("PATH"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.label, err)
	}
	d.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(d.cmd, d.done)
	return d.ready(ctx)
}

// ready waits until the daemon answers.
func (d *daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if c, err := net.Dial("unix", filepath.Join(d.dir, "sock")); err == nil {
			c.Close()
			_, err := d.ctl(ctx, "debug", "workers")
			return err
		}
		select {
		case err := <-d.done:
			d.cmd = nil
			return fmt.Errorf("%s ended: %v\n%s", d.label, err, d.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", d.label, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *daemon) lastLog() []byte {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return b[max(0, len(b)-2000):]
}

func (d *daemon) close() error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(60 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
		d.cmd = nil
		return fmt.Errorf("%s did not end within a minute", d.label)
	}
	d.cmd = nil
	return nil
}

// ctl runs buildctl and returns what it wrote to standard error.
func (d *daemon) ctl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.client, append([]string{"--addr", d.addr()}, args...)...)
	cmd.Env = []string{"HOME=" + d.dir, "PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: buildctl: %w\n%s", d.label, err, stderr.Bytes()[max(0, stderr.Len()-2000):])
	}
	return stderr.Bytes(), nil
}

func (d *daemon) build(ctx context.Context, r request) (outcome, error) {
	args := []string{
		"build", "--progress=rawjson", "--frontend=dockerfile.v0", "--local", "context=" + r.dir, "--local", "dockerfile=" + r.dir,
	}
	if r.file != "" {
		args = append(args, "--opt", "filename="+r.file)
	}
	for k, v := range r.args {
		args = append(args, "--opt", "build-arg:"+k+"="+v)
	}
	if r.push != "" {
		args = append(args, "--output", "type=image,push=true,name="+r.push)
	}
	if r.archive != "" {
		args = append(args, "--output", "type=oci,dest="+r.archive)
	}
	if r.cacheTo != "" {
		args = append(args, "--export-cache", "type=registry,mode=max,ref="+r.cacheTo)
	}
	if r.cacheFrom != "" {
		args = append(args, "--import-cache", "type=registry,ref="+r.cacheFrom)
	}
	progress, err := d.ctl(ctx, args...)
	if err != nil {
		return outcome{}, err
	}
	return readProgress(progress)
}
