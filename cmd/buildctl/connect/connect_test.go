package connect

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cmd/buildd/config"
)

// The test's own program is also the supervisor, the daemon and a client.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case SuperviseCommand:
			err = Supervise(flag("--root"), flag("--daemon"))
		case "fake-daemon":
			err = fakeDaemon()
		case "fake-client":
			err = fakeClient()
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func flag(name string) string {
	for i, a := range os.Args[:len(os.Args)-1] {
		if a == name {
			return os.Args[i+1]
		}
	}
	return ""
}

// fakeDaemon locks its directory and answers each connection with its pid.
func fakeDaemon() error {
	root := flag("--root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "broken")); err == nil {
		return errors.New("the fake daemon is broken")
	}
	lock, err := tryLock(filepath.Join(root, "lock"))
	if err != nil || lock == nil {
		return fmt.Errorf("another daemon has it (%w)", cmp.Or(err, io.EOF))
	}
	l, err := net.Listen("unix", strings.TrimPrefix(flag("--addr"), "unix://"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		fmt.Fprintln(c, os.Getpid())
		c.Close()
	}
}

// fakeClient holds a daemon until it is killed.
func fakeClient() error {
	if _, err := startDaemon(context.Background(), flag("--root")); err != nil {
		return err
	}
	fmt.Println("held")
	select {}
}

// setup makes the fake daemon the one that is found, and returns a state
// directory for it.
func setup(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	script := fmt.Sprintf("#!/bin/sh\nexec %s fake-daemon \"$@\"\n", self)
	if err := os.WriteFile(filepath.Join(dir, "buildd"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	root := filepath.Join(dir, "state")
	t.Cleanup(func() {
		p, err := newPlaces(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{p.lock, p.control, p.daemon, p.log} {
			if _, err := os.Lstat(f); err == nil {
				t.Errorf("left behind: %s", f)
				os.Remove(f)
			}
		}
	})
	return root
}

func hold(t *testing.T, root string) *lifeline {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := startDaemon(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pid asks the daemon for its pid.
func pid(t *testing.T, l *lifeline) int {
	t.Helper()
	c, err := net.Dial("unix", strings.TrimPrefix(l.addr, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

func TestDaemonLivesAsLongAsItsClients(t *testing.T) {
	root := setup(t)
	one := hold(t, root)
	p := pid(t, one)
	two := hold(t, root)
	if q := pid(t, two); q != p {
		t.Errorf("the second client has daemon %d, the first %d", q, p)
	}
	one.release()
	if !alive(p) || pid(t, two) != p {
		t.Error("the daemon ended with its first client")
	}
	two.release()
	if alive(p) {
		t.Error("the daemon outlives its last client")
	}
	three := hold(t, root)
	if q := pid(t, three); q == p {
		t.Error("the daemon that ended is there again")
	}
	three.release()
}

func TestManyClientsAtOnce(t *testing.T) {
	root := setup(t)
	done := make(chan error)
	for range 8 {
		go func() {
			l, err := startDaemon(t.Context(), root)
			if err == nil {
				var c net.Conn
				if c, err = net.Dial("unix", strings.TrimPrefix(l.addr, "unix://")); err == nil {
					c.Close()
				}
				l.release()
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestDaemonEndsWithAKilledClient kills a client that cannot say good-bye.
func TestDaemonEndsWithAKilledClient(t *testing.T) {
	root := setup(t)
	cmd := exec.Command("/proc/self/exe", "fake-client", "--root", root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("client says %q, %v", line, err)
	}
	places, err := newPlaces(root)
	if err != nil {
		t.Fatal(err)
	}
	p := pid(t, &lifeline{addr: "unix://" + places.daemon})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(20 * time.Second); alive(p); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon outlives its killed client")
		}
	}
	hold(t, root).release() // what comes next waits for the end
}

// TestAKilledSupervisorTakesTheDaemonAlong also leaves its sockets for the next
// one.
func TestAKilledSupervisorTakesTheDaemonAlong(t *testing.T) {
	root := setup(t)
	one := hold(t, root)
	p := pid(t, one)
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
	if err != nil {
		t.Fatal(err)
	}
	parent, err := strconv.Atoi(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(parent, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.release()
	two := hold(t, root)
	if q := pid(t, two); q == p {
		t.Error("the old daemon lives on")
	}
	two.release()
}

func TestADaemonThatDoesNotStart(t *testing.T) {
	root := setup(t)
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(root, "broken")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := startDaemon(t.Context(), root)
	if err == nil || !strings.Contains(err.Error(), "the fake daemon is broken") || !strings.Contains(err.Error(), root) {
		t.Errorf("error: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	hold(t, root).release()
}

// TestADaemonThatDies is not the next client's.
func TestADaemonThatDies(t *testing.T) {
	root := setup(t)
	one := hold(t, root)
	p := pid(t, one)
	if err := unix.Kill(p, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.release() // comes back when the supervisor knows
	two := hold(t, root)
	if q := pid(t, two); q == p {
		t.Error("the dead daemon answers")
	}
	two.release()
}

// TestAStateDirectoryInUse waits for a daemon that somebody else started.
func TestAStateDirectoryInUse(t *testing.T) {
	root := setup(t)
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := tryLock(filepath.Join(root, "lock"))
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := startDaemon(ctx, root); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with the directory in use: %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { lock.Close() })
	hold(t, root).release()
}

func TestNoDaemonToStart(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("BUILDKIT_HOST", "")
	_, err := startDaemon(t.Context(), t.TempDir())
	for _, want := range []string{"--addr", "$BUILDKIT_HOST", "buildd"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %s", err, want)
		}
	}
}

// TestPlacesAreTheDaemons holds the defaults that are written down twice, so that
// the client need not contain the daemon's configuration.
func TestPlacesAreTheDaemons(t *testing.T) {
	if got := config.DefaultRoot(); got != DefaultRoot() {
		t.Errorf("root: the daemon has %s, the client %s", got, DefaultRoot())
	}
	if got := config.DefaultAddress(); got != defaultAddresses()[0] {
		t.Errorf("address: the daemon has %s, the client %q", got, defaultAddresses())
	}
}

func TestTLSOptions(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"ca.crt", "tls.crt", "tls.key"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if opts, err := (Options{TLSDir: dir}).tls("tcp://host:1"); err != nil || len(opts) != 2 {
		t.Errorf("a directory: %v, %v", opts, err)
	}
	for want, o := range map[string]Options{
		"either the directory or the files":         {TLSDir: dir, Cert: "x"},
		"has neither ca.pem nor ca.crt":             {TLSDir: t.TempDir()},
		`--tlscert "x" with --tlskey "": want both`: {Cert: "x"},
	} {
		if _, err := o.tls("tcp://host:1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error is %v, want one with %q", o, err, want)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	addr := "unix://" + filepath.Join(t.TempDir(), "s")
	_, err := Options{Addr: addr, Timeout: 5}.Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("error: %v", err)
	}
	start := time.Now()
	if _, err := (Options{Addr: addr, Timeout: 1, Wait: true}).Dial(t.Context()); err == nil || time.Since(start) < 500*time.Millisecond {
		t.Errorf("--wait does not: %v", err)
	}
}
