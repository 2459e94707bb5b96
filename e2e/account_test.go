package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// account is an ordinary user.
type account struct {
	uid, gid int
	home     string
	subs     int // first of the 65536 IDs that are the user's too; 0 for none
}

// Users of tests. Nobody else should have these IDs.
const (
	strangerID = 54321
	lodgerID   = 54322
	lodgerName = "buildd-e2e"
	lodgerSubs = 1 << 30
)

// newStranger returns a user of whom the machine knows nothing, so that one ID is
// mapped only.
func newStranger(t testing.TB) *account {
	a := &account{uid: strangerID, gid: strangerID}
	a.moveIn(t)
	return a
}

// newLodger adds a user with subordinate IDs to the machine for the time of the
// test.
func newLodger(t testing.TB) *account {
	t.Helper()
	a := &account{uid: lodgerID, gid: lodgerID, subs: lodgerSubs}
	id, subs := strconv.Itoa(a.uid), fmt.Sprintf("%d-%d", a.subs, a.subs+65535)
	_ = exec.Command("userdel", lodgerName).Run() // of a test that was killed
	_ = exec.Command("groupdel", lodgerName).Run()
	remove := func() { tool(t, "userdel", lodgerName) }
	tool(t, "groupadd", "--gid", id, lodgerName)
	tool(t, "useradd", "--uid", id, "--gid", id, "--no-create-home", "--home-dir", "/nonexistent", lodgerName)
	t.Cleanup(remove)
	for _, f := range []string{"/etc/subuid", "/etc/subgid"} { // what useradd gave of itself
		for _, r := range subordinates(t, f) {
			tool(t, "usermod", map[string]string{"/etc/subuid": "--del-subuids", "/etc/subgid": "--del-subgids"}[f], r, lodgerName)
		}
	}
	tool(t, "usermod", "--add-subuids", subs, "--add-subgids", subs, lodgerName)
	a.moveIn(t)
	return a
}

// subordinates returns the lodger's ranges in a file.
func subordinates(t testing.TB, file string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for l := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(l), ":")
		if len(f) != 3 || f[0] != lodgerName {
			continue
		}
		first, err1 := strconv.Atoi(f[1])
		n, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil {
			t.Fatalf("%s: %q", file, l)
		}
		out = append(out, fmt.Sprintf("%d-%d", first, first+n-1))
	}
	return out
}

// moveIn makes the home, and has the test fail if a process of the user's is left
// at its end.
func (a *account) moveIn(t testing.TB) {
	t.Helper()
	if msg := noUserNamespaces(); msg != "" {
		t.Skipf("SKIPPED, NOTHING OF ROOTLESS IS TESTED: %s", msg)
	}
	var err error
	if a.home, err = os.MkdirTemp("", "bdhome"); err != nil {
		t.Fatal(err)
	}
	a.owns(t, a.home)
	t.Cleanup(func() {
		os.RemoveAll(a.home)
		for end := time.Now().Add(5 * time.Second); len(a.processes()) > 0; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				for _, p := range a.processes() {
					b, _ := os.ReadFile("/proc/" + p + "/cmdline")
					t.Errorf("process left behind: %s %q", p, b)
				}
				break
			}
		}
	})
}

// noUserNamespaces says why the machine does not let ordinary users have them, or
// nothing.
func noUserNamespaces() string {
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
	(&account{uid: strangerID, gid: strangerID}).run(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("an ordinary user cannot have a user namespace here: %v %s", err, out)
	}
	return ""
}

func (a *account) owns(t testing.TB, path string) {
	t.Helper()
	if err := os.Chown(path, a.uid, a.gid); err != nil {
		t.Fatal(err)
	}
}

// run has a command run as the user; nil is root.
func (a *account) run(cmd *exec.Cmd) {
	if a == nil {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	cmd.Env = []string{"HOME=" + a.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	cmd.Dir = "/"
}

// dir makes a directory of the user's in his home.
func (a *account) dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp(a.home, "d")
	if err != nil {
		t.Fatal(err)
	}
	a.owns(t, d)
	return d
}

// processes are those of the user and of his subordinate IDs.
func (a *account) processes() []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		var st syscall.Stat_t
		if syscall.Stat(d, &st) != nil {
			continue
		}
		uid := int(st.Uid)
		if b, err := os.ReadFile(d + "/status"); err == nil { // /proc is root's where one may not look
			if strings.Contains(string(b), "\nState:\tZ") { // ended, and not waited for yet by whoever got it
				continue
			}
			_, rest, _ := strings.Cut(string(b), "\nUid:")
			if f := strings.Fields(rest); len(f) > 0 {
				uid, _ = strconv.Atoi(f[0])
			}
		}
		if uid == a.uid || a.subs > 0 && uid >= a.subs && uid < a.subs+65536 {
			out = append(out, filepath.Base(d))
		}
	}
	return out
}
