package session_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"
)

func secrets(kv ...string) bksession.Attachable {
	m := map[string][]byte{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = []byte(kv[i+1])
	}
	return secretsprovider.FromMap(m)
}

func TestSecret(t *testing.T) {
	m := newManager(t)
	a := sessiontest.Connect(t, m, "", secrets("a", "1"))
	b := sessiontest.Connect(t, m, "", secrets("b", "2"))
	none := sessiontest.Connect(t, m, "")
	ids := []string{none, a}
	c := m.Client(func() []string { return ids })
	if v, err := session.Secret(t.Context(), c, "a"); err != nil || string(v) != "1" {
		t.Errorf("%q, %v", v, err)
	}
	_, err := session.Secret(t.Context(), c, "b")
	if !errors.Is(err, session.ErrNotFound) || err.Error() != `secret b: not found: pass --secret id=b,src=FILE` {
		t.Errorf("%v", err)
	}
	ids = append(ids, b) // another build joins
	if v, err := session.Secret(t.Context(), c, "b"); err != nil || string(v) != "2" {
		t.Errorf("%q, %v", v, err)
	}
	if id, v, err := session.FirstSecret(t.Context(), c, "x", "b", "a"); err != nil || id != "b" || string(v) != "2" {
		t.Errorf("%s=%q, %v", id, v, err)
	}
	if id, _, err := session.FirstSecret(t.Context(), nil, "x"); err != nil || id != "" {
		t.Errorf("%s, %v", id, err)
	}
	if _, err := session.Secret(t.Context(), nil, "x"); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

func TestOn(t *testing.T) {
	m := newManager(t)
	a, b := sessiontest.Connect(t, m, "key-a"), sessiontest.Connect(t, m, "key-b")
	c := m.Client(func() []string { return []string{a} })
	which := func(c session.Client, id string) string {
		var key string
		err := session.On(t.Context(), c, id, func(_ context.Context, _ string, caller bksession.Caller) error {
			key = caller.SharedKey()
			return nil
		})
		if err != nil {
			return err.Error()
		}
		return key
	}
	if k := which(c, ""); k != "key-a" {
		t.Error(k)
	}
	if k := which(c, b); k != "key-b" { // a session that the definition names
		t.Error(k)
	}
	only := onlyAny{c}
	if k := which(only, a); k != "key-a" {
		t.Error(k)
	}
	if k := which(only, b); !strings.Contains(k, "not connected") {
		t.Error(k)
	}
	if err := session.On(t.Context(), m.Client(func() []string { return nil }), "", nil); !errors.Is(err, session.ErrNoSession) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	time.AfterFunc(50*time.Millisecond, func() { cancel(stop) })
	began := time.Now()
	err := session.On(ctx, m.Client(func() []string { return []string{"missing"} }), "", nil)
	if err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("waited %s for a missing session: %v", time.Since(began), err)
	}
}

type onlyAny struct{ session.Client }

func TestSSH(t *testing.T) {
	keyring := agent.NewKeyring()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	must(t, keyring.Add(agent.AddedKey{PrivateKey: key, Comment: "mine"}))
	sock := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", sock)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(keyring, conn)
		}
	}()
	p, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{ID: "work", Paths: []string{sock}}})
	must(t, err)
	c := sessiontest.Client(t, p)
	dir := t.TempDir()
	a, err := session.MountSSH(t.Context(), c, session.SSH{ID: "work", Dir: dir, UID: 12, GID: 34, Mode: 0o600})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(a.Path, &st))
	if st.Mode&0o777 != 0o600 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("socket: %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	for range 3 {
		conn, err := net.Dial("unix", a.Path)
		must(t, err)
		keys, err := agent.NewClient(conn).List()
		if err != nil || len(keys) != 1 || keys[0].Comment != "mine" {
			t.Errorf("%v, %v", keys, err)
		}
		defer conn.Close() // Close of the agent must end it, too
	}
	must(t, a.Close())
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	a, err = session.MountSSH(ctx, c, session.SSH{ID: "work", Dir: dir, Mode: 0o600})
	must(t, err)
	cancel()
	for {
		conn, err := net.Dial("unix", a.Path)
		if err != nil {
			break // the end of the context has closed the socket
		}
		conn.Close()
		time.Sleep(time.Millisecond)
	}
	must(t, a.Close())
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	_, err = session.MountSSH(t.Context(), c, session.SSH{Dir: dir})
	if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "--ssh default") {
		t.Errorf("%v", err)
	}
	_, err = session.MountSSH(t.Context(), sessiontest.Client(t), session.SSH{ID: "x", Dir: dir})
	if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "forwards no agent") {
		t.Errorf("%v", err)
	}
}

type buffer struct {
	bytes.Buffer
	closed bool
}

func (b *buffer) Close() error { b.closed = true; return nil }

func TestSend(t *testing.T) {
	var file buffer
	var meta map[string]string
	dir := t.TempDir()
	target := filesync.NewFSSyncTarget(
		filesync.WithFSSync(0, func(m map[string]string) (io.WriteCloser, error) { meta = m; return &file, nil }),
		filesync.WithFSSyncDir(1, dir),
	)
	caller, err := session.Pick(t.Context(), sessiontest.Client(t, target), "", nil)
	must(t, err)
	big := strings.Repeat("0123456789", 1<<20)
	err = session.SendFile(t.Context(), caller, 0, map[string]string{"key": "value"}, func(w io.Writer) error {
		_, err := io.WriteString(w, big)
		return err
	})
	if err != nil || file.String() != big || meta["key"] != "value" {
		t.Errorf("%d bytes, %v, %v", file.Len(), meta, err)
	}
	file = buffer{}
	broken := errors.New("broken")
	if err := session.SendFile(t.Context(), caller, 0, nil, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	from := t.TempDir()
	must(t, os.WriteFile(filepath.Join(from, "a"), []byte("content"), 0o644))
	files, err := fsutil.NewFS(from)
	must(t, err)
	must(t, session.SendDir(t.Context(), caller, 1, files, nil))
	if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if err := session.SendDir(t.Context(), caller, 7, files, nil); err == nil {
		t.Error("sent to an exporter that is none")
	}
	deaf, err := session.Pick(t.Context(), sessiontest.Client(t), "", nil)
	must(t, err)
	for _, err := range []error{session.SendDir(t.Context(), deaf, 0, files, nil), session.SendFile(t.Context(), deaf, 0, nil, nil)} {
		if !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "--output") {
			t.Errorf("%v", err)
		}
	}
}

func newManager(t *testing.T) *session.Manager {
	t.Helper()
	m, err := session.NewManager()
	must(t, err)
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
