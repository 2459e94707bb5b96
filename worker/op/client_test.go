package op

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	"github.com/moby/buildkit/solver/pb"
)

func secretMount(id string, optional bool) *pb.Mount {
	return &pb.Mount{Dest: "/run/secrets/" + id, Input: none, Output: none, MountType: pb.MountType_SECRET,
		SecretOpt: &pb.SecretOpt{ID: id, Uid: 5, Gid: 6, Mode: 0o440, Optional: optional}}
}

func TestSecrets(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	client := sessiontest.Client(t, secretsprovider.FromMap(map[string][]byte{"key": []byte("s3cr3t-value")}))
	x := shell(`cat /run/secrets/key; echo; stat -c %u:%g:%a /run/secrets/key; df /run/secrets/key | grep -c buildd-secrets; test ! -e /run/secrets/other; echo $TOKEN-$NONE; touch /run/x`,
		secretMount("key", false), secretMount("other", true))
	x.Secretenv = []*pb.SecretEnv{{ID: "key", Name: "TOKEN"}, {ID: "other", Name: "NONE", Optional: true}}
	out, rec, err := run(t, w, Request{Op: execOp(x), Inputs: []cache.Tree{base}, Client: client})
	if err != nil {
		t.Fatal(err, rec.stderr())
	}
	if want := "s3cr3t-value\n5:6:440\n1\ns3cr3t-value-\n"; rec.stdout() != want {
		t.Errorf("output %q, want %q", rec.stdout(), want)
	}
	if got := top(t, w, out[0]); strings.Join(got, " ") != "/run /run/x" {
		t.Errorf("layer holds %q, want /run/x alone", got)
	}
	nothingHolds(t, filepath.Dir(w.Dir), "s3cr3t-value")

	for _, c := range []struct {
		x      *pb.ExecOp
		client bool
		says   string
	}{
		{shell("true", secretMount("other", false)), true, "secret other: not found"},
		{shell("true", secretMount("other", false)), false, "secret other: not found"},
	} {
		r := Request{Op: execOp(c.x), Inputs: []cache.Tree{base}}
		if c.client {
			r.Client = client
		}
		if _, _, err := run(t, w, r); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("error %v, want %q", err, c.says)
		}
	}
	if _, _, err := run(t, w, Request{Op: execOp(shell("true", secretMount("other", true))), Inputs: []cache.Tree{base}}); err != nil {
		t.Errorf("an optional secret without a client: %v", err)
	}
}

// nothingHolds looks for text in all files below dir.
func nothingHolds(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), text) {
			t.Errorf("%s holds the secret", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSSH(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	agent := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", agent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "agent here")
			c.Close()
		}
	}()
	p, err := sshprovider.NewSSHAgentProvider([]sshprovider.AgentConfig{{ID: "default", Paths: []string{agent}, Raw: true}})
	if err != nil {
		t.Fatal(err)
	}
	mnt := func(id string, optional bool) *pb.Mount {
		return &pb.Mount{Dest: "/run/ssh.sock", Input: none, Output: none, MountType: pb.MountType_SSH,
			SSHOpt: &pb.SSHOpt{ID: id, Uid: 5, Gid: 6, Mode: 0o600, Optional: optional}}
	}
	client := sessiontest.Client(t, p)
	rec := &record{}
	done := make(chan error)
	go func() {
		_, err := w.Run(context.WithoutCancel(t.Context()), Request{
			Op:     execOp(shell("test -S /run/ssh.sock && stat -c %u:%g:%a /run/ssh.sock && echo && sleep 0.3", mnt("", false))),
			Inputs: []cache.Tree{base}, Client: client, Progress: rec,
		})
		done <- err
	}()
	for !strings.HasSuffix(rec.stdout(), "\n\n") {
		select {
		case err := <-done:
			t.Fatal(err, rec.stderr())
		case <-time.After(time.Millisecond):
		}
	}
	if got := rec.stdout(); got != "5:6:600\n\n" {
		t.Errorf("socket is %q", got)
	}
	dirs, _ := filepath.Glob(w.Dir + "/*/memory/ssh-*")
	if len(dirs) != 1 {
		t.Fatalf("sockets in %q", dirs)
	}
	d, err := os.Open(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", procPath(d)+"/agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	if string(b) != "agent here" {
		t.Errorf("the agent said %q", b)
	}
	c.Close()
	d.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, _, err := run(t, w, Request{Op: execOp(shell("true", mnt("other", false))), Inputs: []cache.Tree{base}, Client: client}); err == nil || !strings.Contains(err.Error(), `ssh agent "other" not found`) {
		t.Errorf("error %v", err)
	}
	if _, _, err := run(t, w, Request{Op: execOp(shell("test ! -e /run/ssh.sock", mnt("other", true))), Inputs: []cache.Tree{base}, Client: client}); err != nil {
		t.Error(err)
	}
}

func cacheMount(id string, sharing pb.CacheSharingOpt) *pb.Mount {
	return &pb.Mount{Dest: "/cache", Input: none, Output: none, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: id, Sharing: sharing}}
}

func TestCacheMounts(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	out, _ := mustRun(t, w, shell("echo one >> /cache/f", cacheMount("../../id", pb.CacheSharingOpt_SHARED)), base)
	if got := top(t, w, out[0]); len(got) != 0 {
		t.Errorf("layer holds %q", got)
	}
	_, got := mustRun(t, w, shell("echo two >> /cache/f; cat /cache/f", cacheMount("../../id", pb.CacheSharingOpt_LOCKED)), base)
	if got != "one\ntwo\n" {
		t.Errorf("cache holds %q", got)
	}
	_, got = mustRun(t, w, shell("ls /cache | wc -l", cacheMount("id", pb.CacheSharingOpt_SHARED)), base)
	if got != "0\n" {
		t.Errorf("another cache holds %q files", got)
	}
	// The same mount twice in a step is one directory, locked or not.
	again := cacheMount("id", pb.CacheSharingOpt_LOCKED)
	again.Dest = "/again"
	_, got = mustRun(t, w, shell("echo x > /cache/x; cat /again/x", cacheMount("id", pb.CacheSharingOpt_LOCKED), again), base)
	if got != "x\n" {
		t.Errorf("second mount holds %q", got)
	}
	// Read-only.
	ro := cacheMount("id", pb.CacheSharingOpt_SHARED)
	ro.Readonly = true
	_, got = mustRun(t, w, shell("cat /cache/x; touch /cache/y 2>/dev/null || echo no", ro), base)
	if got != "x\nno\n" {
		t.Errorf("read-only cache: %q", got)
	}
	u, err := w.Caches.Usage(t.Context())
	if err != nil || len(u) != 2 || u[0].ID != "../../id" || u[0].UseCount != 2 || !strings.HasPrefix(u[0].Description, `cached mount /cache from exec /bin/sh -c`) {
		t.Errorf("usage %+v %v", u, err)
	}
}

// TestCacheBase does what the Dockerfile frontend does for uid, gid and mode.
func TestCacheBase(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	mk := mkdir("/cache", 0o750, false)
	mk.Input = none
	mk.GetMkdir().Owner = &pb.ChownOpt{User: byID(7), Group: byID(8)}
	dir, err := runFile(t, w, fileOp(0, mk))
	if err != nil {
		t.Fatal(err)
	}
	m := cacheMount("id", pb.CacheSharingOpt_SHARED)
	m.Input, m.Selector = 1, "/cache"
	_, got := mustRun(t, w, shell("stat -c %u:%g:%a /cache; echo x > /cache/x", m), base, dir[0])
	if got != "7:8:750\n" {
		t.Errorf("cache directory is %q", got)
	}
	_, got = mustRun(t, w, shell("cat /cache/x", m), base, dir[0])
	if got != "x\n" {
		t.Errorf("cache of the same base holds %q", got)
	}
	again, err := runFile(t, w, fileOp(0, mk)) // other layer, same content
	if err != nil {
		t.Fatal(err)
	}
	_, got = mustRun(t, w, shell("cat /cache/x", m), base, again[0])
	if got != "x\n" {
		t.Errorf("cache of an equal base holds %q", got)
	}
	// A step that shares the cache cannot lead another out of it.
	evil := cacheMount("id", pb.CacheSharingOpt_SHARED)
	evil.Input = 1
	mustRun(t, w, shell("mv /cache/cache /cache/old && ln -s / /cache/cache && mkdir /cache/marker", evil), base, dir[0])
	_, got = mustRun(t, w, shell("ls /cache", m), base, dir[0])
	if !strings.Contains(got, "marker") {
		t.Errorf("a link led out of the cache mount: %q", got)
	}
	// The input is not changed by what steps write into the cache.
	expect(t, w, dir[0], "d:750:7:8 /cache")
}

func TestCacheSharing(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	// While one step holds the cache, others try.
	for _, c := range []struct {
		first, second pb.CacheSharingOpt
		want          string
	}{
		{pb.CacheSharingOpt_SHARED, pb.CacheSharingOpt_SHARED, "same"},
		{pb.CacheSharingOpt_SHARED, pb.CacheSharingOpt_PRIVATE, "other"},
		{pb.CacheSharingOpt_PRIVATE, pb.CacheSharingOpt_PRIVATE, "other"},
		{pb.CacheSharingOpt_LOCKED, pb.CacheSharingOpt_SHARED, "other"},
		{pb.CacheSharingOpt_LOCKED, pb.CacheSharingOpt_LOCKED, "later"},
		{pb.CacheSharingOpt_SHARED, pb.CacheSharingOpt_LOCKED, "later"},
	} {
		id := c.first.String() + c.second.String()
		t.Run(id, func(t *testing.T) {
			hold, rec, first := "sleep 1000", &record{}, make(chan error)
			if c.want == "later" {
				hold = "sleep 0.3"
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				_, err := w.Run(ctx, Request{
					Op:     execOp(shell("echo > /cache/held; echo ready;"+hold+"; rm /cache/held; echo done", cacheMount(id, c.first))),
					Inputs: []cache.Tree{base}, Progress: rec,
				})
				first <- err
			}()
			for rec.stdout() == "" {
				select {
				case err := <-first:
					t.Fatalf("the first step ended: %v", err)
				case <-time.After(time.Millisecond):
				}
			}
			_, got := mustRun(t, w, shell("test -e /cache/held && echo same || echo other", cacheMount(id, c.second)), base)
			if strings.Contains(rec.stdout(), "done") {
				got = "later"
			}
			if strings.TrimSpace(got) != c.want {
				t.Errorf("the second step had %s directory, want %s", strings.TrimSpace(got), c.want)
			}
			cancel()
			<-first
		})
	}
}
