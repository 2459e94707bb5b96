package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/op"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/session/sessiontest"
)

func secretMount(id string, optional bool) *pb.Mount {
	return &pb.Mount{Dest: "/run/secrets/" + id, Input: -1, Output: -1, MountType: pb.MountType_SECRET,
		SecretOpt: &pb.SecretOpt{ID: id, Mode: 0o400, Optional: optional}}
}

func sshMount(id string, optional bool) *pb.Mount {
	return &pb.Mount{Dest: "/run/agent.sock", Input: -1, Output: -1, MountType: pb.MountType_SSH,
		SSHOpt: &pb.SSHOpt{ID: id, Mode: 0o600, Optional: optional}}
}

func TestSecrets(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, remote := daemon.busybox(t), daemon.newRemote(t, w.addr)
	value := bytes.Repeat([]byte("s3cr3t"), 20000)
	client := sessiontest.Client(t, secretsprovider.FromMap(map[string][]byte{"key": value, "small": []byte("tiny"), "empty": {}}))
	o := shell("wc -c < /run/secrets/key; ls /run/secrets; echo $TOKEN-$NONE-$EMPTY", secretMount("key", false), secretMount("other", true))
	o.GetExec().Secretenv = []*pb.SecretEnv{{ID: "small", Name: "TOKEN"}, {ID: "other", Name: "NONE", Optional: true}, {ID: "empty", Name: "EMPTY"}}
	rec := newRecord()
	out, err := remote.Run(t.Context(), op.Request{Op: o, Inputs: []cache.Tree{base}, Client: client, Progress: rec})
	if err != nil {
		t.Fatal(err, rec)
	}
	if got := strings.ReplaceAll(rec.String(), "1:", ""); got != "120000\nkey\ntiny--\n" {
		t.Errorf("output %q", got)
	}
	for _, c := range []struct {
		client session.Client
		id     string
	}{{client, "other"}, {nil, "key"}} {
		_, err := remote.Run(t.Context(), op.Request{Op: shell("true", secretMount(c.id, false)), Inputs: []cache.Tree{base}, Client: c.client})
		if err == nil || !strings.Contains(err.Error(), "secret "+c.id+": not found") || strings.Contains(err.Error(), "rpc") {
			t.Errorf("error %v", err)
		}
	}
	if _, err := remote.Run(t.Context(), op.Request{Op: shell("true", secretMount("key", true)), Inputs: []cache.Tree{base}}); err != nil {
		t.Errorf("an optional secret without a client: %v", err)
	}
	for _, n := range []*node{daemon, w.node} {
		nothingHolds(t, n.dir, "s3cr3t")
	}
	_ = out
}

// nothingHolds looks for text in all files below dir.
func nothingHolds(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if bytes.Contains(b, []byte(text)) {
			t.Errorf("%s holds the secret", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnnamed asks, as a worker that was taken over would, for what clients have
// but the op does not name.
func TestUnnamed(t *testing.T) {
	daemon := newNode(t)
	client := sessiontest.Client(t, secretsprovider.FromMap(map[string][]byte{"key": []byte("value"), "other": []byte("hidden")}), echoAgent(t))
	var errs []error
	w := newRemoteNode(t, stepsFunc(func(ctx context.Context, r op.Request) ([]cache.Tree, error) {
		b, err := session.Secret(ctx, r.Client, "key")
		if err != nil || string(b) != "value" {
			t.Errorf("the step's own secret is %q, %v", b, err)
		}
		_, err = session.Secret(ctx, r.Client, "other")
		_, aerr := session.MountSSH(ctx, r.Client, session.SSH{ID: "default"})
		c := r.Client.(*call) // a real worker would have been stopped by the check
		l, _ := c.back.links.open("default")
		defer c.back.links.drop(l)
		<-l.broken
		errs = append(errs, err, aerr, l.err)
		return r.Inputs, nil
	}))
	_, err := daemon.newRemote(t, w.addr).Run(t.Context(), op.Request{
		Op: shell("true", secretMount("key", false)), Inputs: []cache.Tree{daemon.file(t, "", "f", "1")}, Client: client,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, says := range []string{`names no secret "other"`, `names no SSH agent "default"`, `names no SSH agent "default"`} {
		if errs[i] == nil || !strings.Contains(errs[i].Error(), says) {
			t.Errorf("error %v, want %q", errs[i], says)
		}
	}
}

// echoAgent is an "agent" that answers in capitals until it is told the end.
func echoAgent(t *testing.T) bksession.Attachable { return agentOf(t, echo) }

func echo(c net.Conn) {
	b := make([]byte, 1024)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(bytes.ToUpper(b[:n])); err != nil {
			return
		}
	}
}

func TestSSH(t *testing.T) {
	daemon := newNode(t)
	client := sessiontest.Client(t, agentOf(t, echo))
	var talked string
	w := newRemoteNode(t, stepsFunc(func(ctx context.Context, r op.Request) ([]cache.Tree, error) {
		if _, err := session.MountSSH(ctx, r.Client, session.SSH{ID: "missing"}); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		a, err := session.MountSSH(ctx, r.Client, session.SSH{Dir: t.TempDir(), Mode: 0o600})
		if err != nil {
			return nil, err
		}
		defer a.Close()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := converse(a.Path); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// One that stays open ends with the step.
		c, err := net.Dial("unix", a.Path)
		if err != nil {
			return nil, err
		}
		fmt.Fprint(c, "one more")
		b := make([]byte, 8)
		_, err = io.ReadFull(c, b)
		talked = string(b)
		return r.Inputs, err
	}))
	_, err := daemon.newRemote(t, w.addr).Run(t.Context(), op.Request{
		Op: shell("true", sshMount("", false), sshMount("missing", true)), Inputs: []cache.Tree{daemon.file(t, "", "f", "1")}, Client: client,
	})
	if err != nil || talked != "ONE MORE" {
		t.Errorf("%v, the agent said %q", err, talked)
	}
}

// converse sends much, reads as it goes, and ends.
func converse(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range 50 {
		say := strings.Repeat(fmt.Sprintf("hello %d ", i), i)
		if _, err := io.WriteString(c, say); err != nil {
			return err
		}
		b := make([]byte, len(say))
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if string(b) != strings.ToUpper(say) {
			return fmt.Errorf("the agent said %q", b)
		}
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		return fmt.Errorf("at the end: %q %w", b, err)
	}
	return nil
}

// TestSSHInContainer has the real mount on the worker.
func TestSSHInContainer(t *testing.T) {
	daemon, w := newNode(t), newRemoteNode(t, nil)
	base, remote := daemon.busybox(t), daemon.newRemote(t, w.addr)
	client := sessiontest.Client(t, agentOf(t, echo))
	rec := newRecord()
	_, err := remote.Run(t.Context(), op.Request{
		Op: shell("ls -l /run/agent.sock", sshMount("", false)), Inputs: []cache.Tree{base}, Client: client, Progress: rec,
	})
	if err != nil || !strings.Contains(rec.String(), "srw-------") {
		t.Error(err, rec)
	}
	_, err = remote.Run(t.Context(), op.Request{Op: shell("true", sshMount("none", false)), Inputs: []cache.Tree{base}, Client: client})
	if err == nil || !strings.Contains(err.Error(), `ssh agent "none" not found`) {
		t.Errorf("error %v", err)
	}
}

// TestLinkThatDoesNotRead has more for a connection than it takes.
func TestLinkThatDoesNotRead(t *testing.T) {
	daemon := newNode(t)
	client := sessiontest.Client(t, agentOf(t, func(c net.Conn) { // talks without end
		for {
			if _, err := c.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}))
	w := newRemoteNode(t, stepsFunc(func(ctx context.Context, r op.Request) ([]cache.Tree, error) {
		l, err := r.Client.(*call).back.links.open("default")
		if err != nil {
			return nil, err
		}
		<-l.broken
		return r.Inputs, l.err
	}))
	_, err := daemon.newRemote(t, w.addr).Run(t.Context(), op.Request{
		Op: shell("true", sshMount("", false)), Inputs: []cache.Tree{daemon.file(t, "", "f", "1")}, Client: client,
	})
	if err == nil || !strings.Contains(err.Error(), errUnread.Error()) {
		t.Errorf("error %v", err)
	}
}

func agentOf(t *testing.T, serve func(net.Conn)) bksession.Attachable {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	p, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{ID: "default", Paths: []string{path}, Raw: true}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}
