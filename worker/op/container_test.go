package op

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// buffer collects a stream.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *buffer) Close() error { return nil }
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestContainer(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, `f etc/passwd root:x:0:0::/root:/bin/sh\n`)
	c, err := w.NewContainer(t.Context(), ContainerRequest{
		Mounts: []*pb.Mount{{Dest: "/", Input: 0}, {Dest: "/m", Input: 1, Readonly: true}}, Inputs: []cache.Tree{base, grow(t, w, "", "f a in m")},
		Hostname: "ctr",
	})
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	init, err := c.Start(t.Context(), ProcessRequest{Args: []string{"sh", "-c", "hostname; cat; exit 5"}, Stdin: io.NopCloser(strings.NewReader("from stdin\n")), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	// cat has come to the end of its input, so the container has ended.
	if err := init.Wait(); exitCode(err) != 5 {
		t.Errorf("first process: %v, want exit code 5", err)
	}
	if out.String() != "ctr\nfrom stdin\n" {
		t.Errorf("output %q", out.String())
	}
	if err := c.Release(); err != nil {
		t.Error(err)
	}
	if _, err := c.Start(t.Context(), ProcessRequest{Args: []string{"true"}}); !errors.Is(err, errReleased) {
		t.Errorf("start after release: %v", err)
	}
}

func exitCode(err error) uint32 {
	var exit *gwpb.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode
	}
	return 0
}

func TestContainerProcesses(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, `f etc/passwd root:x:0:0::/root:/bin/sh\n`)
	c, err := w.NewContainer(t.Context(), ContainerRequest{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{base}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Release(); err != nil {
			t.Error(err)
		}
	}()
	init, err := c.Start(t.Context(), ProcessRequest{Args: []string{"sleep", "1000"}, Env: []string{"A=1"}})
	if err != nil {
		t.Fatal(err)
	}
	exec := func(r ProcessRequest) (string, error) {
		t.Helper()
		var out buffer
		r.Stdout = &out
		p, err := c.Start(t.Context(), r)
		if err != nil {
			return "", err
		}
		err = p.Wait()
		return out.String(), err
	}
	if got, err := exec(ProcessRequest{Args: []string{"sh", "-c", "echo $A; echo eve:x:9:9::/eve:/bin/sh >> /etc/passwd"}}); got != "1\n" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	// A user that a process has added since.
	if got, err := exec(ProcessRequest{Args: []string{"id", "-u"}, User: "eve"}); got != "9\n" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := exec(ProcessRequest{Args: []string{"sh", "-c", "exit 3"}}); exitCode(err) != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	if _, err := exec(ProcessRequest{Args: []string{"true"}, Cwd: "/nowhere"}); err == nil {
		t.Error("a process started in a directory that is missing")
	}
	var out buffer
	p, err := c.Start(t.Context(), ProcessRequest{Args: []string{"sh", "-c", "echo ready; exec sleep 1000"}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	for out.String() == "" {
		select {
		case <-p.Done():
			t.Fatalf("the process ended: %v", p.Wait())
		case <-time.After(time.Millisecond):
		}
	}
	if err := p.Signal(t.Context(), syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); exitCode(err) != 143 {
		t.Errorf("%v, want exit code 143", err)
	}
	select {
	case <-init.Done():
		t.Errorf("the first process ended: %v", init.Wait())
	default:
	}
}

func TestContainerReleaseKills(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := w.NewContainer(ctx, ContainerRequest{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{base}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Start(ctx, ProcessRequest{Args: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the request that started it may end
	select {
	case <-p.Done():
		t.Errorf("process ended with the request: %v", p.Wait())
	case <-time.After(50 * time.Millisecond):
	}
	if err := c.Release(); err != nil {
		t.Error(err)
	}
	if err := p.Wait(); err == nil {
		t.Error("a killed process ended well")
	}
}

func TestContainerRequestIsChecked(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	for _, r := range []ContainerRequest{
		{},
		{Mounts: []*pb.Mount{nil}},
		{Mounts: []*pb.Mount{{Dest: "/", Input: 1}}, Inputs: []cache.Tree{base}},
		{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{base}, Network: 9},
		{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{base}, ExtraHosts: []*pb.HostIP{{Host: "a", IP: "b"}}},
		{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{base}, Hostname: "a\nb"},
		{Mounts: []*pb.Mount{{Dest: "/", Input: 0}}, Inputs: []cache.Tree{"nosuchtree"}},
	} {
		if c, err := w.NewContainer(t.Context(), r); err == nil {
			t.Errorf("%+v was accepted", r)
			c.Release()
		}
	}
}

func TestContainerFiles(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, "f:600 etc/conf 0123456789", "l abs /etc/conf", "l rel etc/conf", "l up ../../../../etc/conf", "p fifo")
	data := grow(t, w, "", "f sub/a inner")
	c, err := w.NewContainer(t.Context(), ContainerRequest{
		Mounts: []*pb.Mount{{Dest: "/m", Input: 1, Selector: "sub", Readonly: true}, {Dest: "/", Input: 0}, {Dest: "/t", Input: none, MountType: pb.MountType_TMPFS}},
		Inputs: []cache.Tree{base, data},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	for _, x := range []struct {
		mount          int
		name           string
		offset, length int64
		want           string
		fails          bool
	}{
		{1, "/etc/conf", 0, -1, "0123456789", false},
		{1, "/etc/conf", 3, 4, "3456", false},
		{1, "/abs", 8, 100, "89", false},
		{1, "/up", 0, 1, "0", false},
		{0, "/a", 0, -1, "inner", false},
		{1, "/fifo", 0, -1, "", true},
		{1, "/etc", 0, -1, "", true},
		{1, "etc/conf", 0, -1, "", true},
		{1, "/etc/conf", -1, -1, "", true},
		{2, "/x", 0, -1, "", true},
		{3, "/x", 0, -1, "", true},
	} {
		b, err := c.ReadFile(x.mount, x.name, x.offset, x.length)
		if string(b) != x.want || (err != nil) != x.fails {
			t.Errorf("read %s of mount %d: %q %v", x.name, x.mount, b, err)
		}
		if err != nil && strings.Contains(err.Error(), w.Dir) {
			t.Errorf("error names a path of the host: %v", err)
		}
	}
	// A process changes what is read.
	p, err := c.Start(t.Context(), ProcessRequest{Args: []string{"sh", "-c", "echo new > /etc/new"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.ReadDir(1, "/etc")
	if err != nil || len(list) < 2 || list[0].Path != "conf" || list[0].Mode != 0o600 || list[0].Size != 10 {
		t.Errorf("etc holds %v %v", list, err)
	}
	if s, err := c.StatFile(1, "/etc/new"); err != nil || s.Size != 4 || s.Path != "new" {
		t.Errorf("%v %v", s, err)
	}
	if s, err := c.StatFile(1, "/rel"); err != nil || s.Size != 10 || s.Linkname != "" {
		t.Errorf("%v %v", s, err)
	}
	if s, err := c.StatFile(1, "/abs"); err != nil || s.Linkname != "/etc/conf" {
		t.Errorf("%v %v", s, err)
	}
	if _, err := c.StatFile(1, "/none"); err == nil {
		t.Error("a missing file was described")
	}
}
