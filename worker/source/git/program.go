package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoGit is returned, wrapped, when there is no git program.
var ErrNoGit = errors.New("git is not installed")

const (
	// killAfter is how long a git that was told to end may take.
	killAfter = 5 * time.Second
	// maxOutput bounds what is kept of git's output.
	maxOutput = 64 << 20
)

// program runs git in one environment.
type program struct {
	bin     string
	dir     string // working directory
	gitDir  string
	tree    string // work tree
	config  [][2]string
	authSSH string // agent socket
	ssh     string // command
	advice  bool
	log     func(stream int, data []byte) // gets what told commands write; may be nil
}

// with returns p with more configuration.
func (p program) with(kv ...string) program {
	p.config = p.config[:len(p.config):len(p.config)]
	for i := 0; i+1 < len(kv); i += 2 {
		p.config = append(p.config, [2]string{kv[i], kv[i+1]})
	}
	return p
}

// in returns p for another repository.
func (p program) in(gitDir, tree string) program {
	p.gitDir, p.tree, p.dir = gitDir, tree, tree
	return p
}

// Error is what a git command failed with.
type Error struct {
	Command string // such as "fetch"
	Stderr  string
	Err     error
}

func (e *Error) Error() string {
	if s := strings.TrimSpace(e.Stderr); s != "" {
		return fmt.Sprintf("git %s: %s", e.Command, s)
	}
	return fmt.Sprintf("git %s: %v", e.Command, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// run runs git quietly and returns its output. When ctx ends the whole process
// group does.
func (p program) run(ctx context.Context, args ...string) (string, error) {
	p.log = nil
	return p.tell(ctx, args...)
}

// tell is run for commands that the user may want to follow.
func (p program) tell(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command(p.bin, args...)
	var out, errs limited
	cmd.Stdout, cmd.Stderr = &out, &errs
	if p.log != nil {
		cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, logWriter{p.log, 1}), io.MultiWriter(&errs, logWriter{p.log, 2})
	}
	cmd.Dir = p.dir
	cmd.Env = p.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	err := runPrivately(ctx, cmd)
	switch {
	case err == nil:
		return out.String(), nil
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w: install it to build from git repositories (%w)", ErrNoGit, err)
	case ctx.Err() != nil:
		return "", fmt.Errorf("git %s: %w", args[0], context.Cause(ctx))
	default:
		return "", &Error{Command: args[0], Stderr: errs.String(), Err: err}
	}
}

// runPrivately runs cmd with the umask that a checkout's modes need, whatever
// the daemon's is. The thread is given up afterwards, as it no longer shares its
// umask and working directory with the others.
func runPrivately(ctx context.Context, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare umask: %w", err)
			return
		}
		unix.Umask(0o022)
		done <- runGroup(ctx, cmd)
	}()
	return <-done
}

// runGroup stays on its thread until cmd has ended, for cmd dies with it.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	pid := cmd.Process.Pid
	ended := make(chan struct{})
	defer close(ended)
	stop := context.AfterFunc(ctx, func() {
		_ = unix.Kill(-pid, unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(killAfter):
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
	})
	defer stop()
	return cmd.Wait()
}

// env is all that git sees: no configuration of this host, no prompts.
func (p program) env() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + os.DevNull,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=", "GIT_ADVICE=" + boolean(p.advice, "1", "0"),
	}
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	if p.gitDir != "" {
		env = append(env, "GIT_DIR="+p.gitDir)
	}
	if p.tree != "" {
		env = append(env, "GIT_WORK_TREE="+p.tree)
	}
	if p.authSSH != "" {
		env = append(env, "SSH_AUTH_SOCK="+p.authSSH)
	}
	if p.ssh != "" {
		env = append(env, "GIT_SSH_COMMAND="+p.ssh)
	}
	config := append([][2]string{
		{"protocol.allow", "never"},
		{"protocol.http.allow", "always"},
		{"protocol.https.allow", "always"},
		{"protocol.ssh.allow", "always"},
		{"protocol.git.allow", "always"},
		{"protocol.file.allow", "user"}, // for the kept repository, but for no submodule
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"core.hooksPath", os.DevNull},
		{"init.defaultBranch", "master"},
		{"advice.detachedHead", boolean(p.advice, "true", "false")},
		{"fetch.fsckObjects", "false"},
		{"submodule.fetchJobs", "4"},
		{"core.fsmonitor", "false"},
		{"core.untrackedCache", "false"},
	}, p.config...)
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	for i, kv := range config {
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+kv[0], "GIT_CONFIG_VALUE_"+n+"="+kv[1])
	}
	return env
}

func boolean(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

// logWriter passes on what is written to it.
type logWriter struct {
	log    func(stream int, data []byte)
	stream int
}

func (w logWriter) Write(p []byte) (int, error) {
	w.log(w.stream, p)
	return len(p), nil
}

// limited keeps the first maxOutput bytes.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room < len(p) {
		l.Buffer.Write(p[:room])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}
