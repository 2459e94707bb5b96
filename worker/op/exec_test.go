package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
)

// busybox is a root file system with little more than a shell.
func busybox(t testing.TB, w *Worker, more ...string) cache.Tree {
	t.Helper()
	bin, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("SKIPPED: needs busybox-static")
	}
	d, err := w.Trees.NewDraft(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(bin)
	if err == nil {
		err = os.Mkdir(filepath.Join(d.Dir, "bin"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(d.Dir, "bin/busybox"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat ls stat id env pwd touch mkdir rm echo hostname sleep test mount df true false dd nc chmod ln mv kill sort ulimit head tail wc") {
		if err := os.Symlink("busybox", filepath.Join(d.Dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range more {
		if err := growOne(d.Dir, line); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := d.Commit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func root(readonly bool) *pb.Mount {
	m := &pb.Mount{Dest: "/", Input: 0, Output: 0, Readonly: readonly}
	return m
}

// shell is an exec of a shell script with the root file system as input 0.
func shell(script string, mounts ...*pb.Mount) *pb.ExecOp {
	return &pb.ExecOp{Meta: &pb.Meta{Args: []string{"/bin/sh", "-c", script}, Cwd: "/"}, Mounts: append([]*pb.Mount{root(false)}, mounts...)}
}

func execOp(x *pb.ExecOp) *pb.Op {
	n := 0
	for _, m := range x.Mounts {
		n = max(n, int(m.Input)+1)
	}
	return &pb.Op{Inputs: make([]*pb.Input, n), Op: &pb.Op_Exec{Exec: x}}
}

func run(t testing.TB, w *Worker, r Request) ([]cache.Tree, *record, error) {
	t.Helper()
	rec := &record{}
	r.Progress = rec
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := w.Run(ctx, r)
	return out, rec, err
}

// mustRun runs x and returns its outputs and what it wrote to standard output.
func mustRun(t testing.TB, w *Worker, x *pb.ExecOp, inputs ...cache.Tree) ([]cache.Tree, string) {
	t.Helper()
	out, rec, err := run(t, w, Request{Op: execOp(x), Inputs: inputs})
	if err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, rec.stdout(), rec.stderr())
	}
	return out, rec.stdout()
}

func TestExecWritesOnlyWhatTheCommandWrites(t *testing.T) {
	w := newWorker(t)
	// There is no /proc, /dev, /sys, /etc, /run or /mnt in it.
	base := busybox(t, w)
	out, _ := mustRun(t, w, shell("test -e /etc/hosts && test -d /proc/1 && test -d /mnt/deep/here && true",
		&pb.Mount{Dest: "/mnt/deep/here", Input: none, Output: none, MountType: pb.MountType_TMPFS}), base)
	if got := top(t, w, out[0]); len(got) != 0 {
		t.Errorf("a command that wrote nothing made a layer of %q", got)
	}
	out, _ = mustRun(t, w, shell("echo x > /new && mkdir -p /etc && echo y > /etc/conf"), base)
	if got, want := top(t, w, out[0]), []string{"/etc", "/etc/conf", "/new"}; !slices.Equal(got, want) {
		t.Errorf("layer holds %q, want %q", got, want)
	}
	layers, err := w.Trees.Layers(out[0])
	if err != nil || len(layers) != 2 {
		t.Errorf("%d layers, want the base and one more: %v", len(layers), err)
	}
}

// TestStubLayersAreShared sees that mount points are made once, however many
// steps need them, and again where the directories around them are others.
func TestStubLayersAreShared(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, "d:750:3:4 etc")
	one, _ := mustRun(t, w, shell("touch /bin/one"), base)
	two, got := mustRun(t, w, shell("touch /bin/two; stat -c %a:%u:%g /etc"), one[0])
	if got != "750:3:4\n" || len(w.stubs.known) != 1 {
		t.Errorf("%d layers of mount points; /etc is %s", len(w.stubs.known), got)
	}
	three, _ := mustRun(t, w, shell("chmod 700 /etc"), two[0])
	_, got = mustRun(t, w, shell("stat -c %a:%u:%g /etc; ls /bin/one /bin/two"), three[0])
	if got != "700:3:4\n/bin/one\n/bin/two\n" || len(w.stubs.known) != 2 {
		t.Errorf("%d layers of mount points; output %s", len(w.stubs.known), got)
	}
	expect := []string{"/etc"}
	if got := top(t, w, three[0]); !slices.Equal(got, expect) {
		t.Errorf("layer holds %q, want %q", got, expect)
	}
}

func TestExecOutputs(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	data := grow(t, w, "", "f old x", "f sub/a 1")
	x := shell("echo 1 > /a; echo 2 > /out/b; cat /out/old; rm /out/old; echo no > /gone/c",
		&pb.Mount{Dest: "/out", Input: 1, Output: 1}, &pb.Mount{Dest: "/gone", Input: 1, Output: none}, &pb.Mount{Dest: "/ro", Input: 1, Output: 2, Readonly: true},
		&pb.Mount{Dest: "/scratch", Input: none, Output: 3})
	out, _ := mustRun(t, w, x, base, data)
	if len(out) != 4 {
		t.Fatalf("%d outputs, want 4", len(out))
	}
	if got := top(t, w, out[0]); !slices.Equal(got, []string{"/a"}) {
		t.Errorf("root layer holds %q", got)
	}
	expect(t, w, out[1], `f:644 /b 2\n`, "d:755 /sub", "f:644 /sub/a 1")
	if out[2] != data {
		t.Errorf("a read-only mount's output is %s, want its input", out[2])
	}
	expect(t, w, out[3])
	expect(t, w, data, "f:644 /old x", "d:755 /sub", "f:644 /sub/a 1")
}

func TestExecBind(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	data := grow(t, w, "", "f sub/a inside", "l esc /etc", "l way sub", "f file single", "d empty")
	for _, c := range []struct {
		name, script string
		m            *pb.Mount
		want, says   string
	}{
		{name: "directory", script: "cat /m/sub/a", m: &pb.Mount{Input: 1}, want: "inside"},
		{name: "selector", script: "cat /m/a", m: &pb.Mount{Input: 1, Selector: "sub"}, want: "inside"},
		{name: "selector through link", script: "cat /m/a", m: &pb.Mount{Input: 1, Selector: "/way/../way"}, want: "inside"},
		{name: "selector file", script: "cat /m", m: &pb.Mount{Input: 1, Selector: "file"}, want: "single"},
		{name: "selector leads out", script: "cat /m/hostname", m: &pb.Mount{Input: 1, Selector: "esc"}, says: "not found"},
		{name: "selector goes up", script: "cat /m/sub/a", m: &pb.Mount{Input: 1, Selector: "../../.."}, want: "inside"},
		{name: "selector missing", script: "true", m: &pb.Mount{Input: 1, Selector: "nope"}, says: `mount /m: "/nope": not found`},
		{name: "read-only", script: "touch /m/x 2>&1; test ! -e /m/x", m: &pb.Mount{Input: 1, Readonly: true}, want: "touch: /m/x: Read-only file system"},
		{name: "writable", script: "touch /m/x && ls /m/x", m: &pb.Mount{Input: 1}, want: "/m/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.m.Dest, c.m.Output = "/m", none
			if c.want != "" && c.name != "writable" {
				c.m.Readonly = true
			}
			out, rec, err := run(t, w, Request{Op: execOp(shell(c.script, c.m)), Inputs: []cache.Tree{base, data}})
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err, rec.stderr())
			}
			if got := strings.TrimSpace(rec.stdout()); got != c.want {
				t.Errorf("output %q, want %q", got, c.want)
			}
			if got := top(t, w, out[0]); len(got) != 0 {
				t.Errorf("layer holds %q, want nothing", got)
			}
		})
	}
}

// TestExecNestedMounts mounts into a read-only mount that has no mount points.
func TestExecNestedMounts(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, "l src real")
	data := grow(t, w, "", "f a outer")
	inner := grow(t, w, "", "f b inner")
	_, got := mustRun(t, w, shell("cat /src/a /src/x/y/b && echo > /src/tmp/z && ls /real",
		&pb.Mount{Dest: "/src/x/y", Input: 2, Output: none, Readonly: true}, &pb.Mount{Dest: "/src", Input: 1, Output: none, Readonly: true},
		&pb.Mount{Dest: "src/tmp", Input: none, Output: none, MountType: pb.MountType_TMPFS}), base, data, inner)
	if got != "outerinnera\ntmp\nx\n" {
		t.Errorf("output %q", got)
	}
	expect(t, w, data, "f:644 /a outer")
}

func TestExecReadonlyRoot(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	x := shell("touch /x 2>/dev/null || echo read-only; pwd")
	x.Mounts[0] = root(true)
	x.Meta.Cwd = "/work/dir"
	out, got := mustRun(t, w, x, base)
	if got != "read-only\n/work/dir\n" {
		t.Errorf("output %q", got)
	}
	if out[0] != base {
		t.Errorf("output %s, want the input", out[0])
	}
}

func TestExecMeta(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, `f etc/passwd root:x:0:0::/root:/bin/sh\nbob:x:7:8::/home/bob:/bin/sh\n`, `f etc/group bobs:x:8:\nextra:x:9:bob\n`, "f file x")
	for _, c := range []struct {
		name   string
		change func(x *pb.ExecOp)
		script string
		want   string
		says   string
	}{
		{name: "user", change: func(x *pb.ExecOp) { x.Meta.User = "bob" }, script: "id -u; id -g; id -G; echo $HOME", want: "7\n8\n8 9\n/home/bob\n"},
		{name: "user and group", change: func(x *pb.ExecOp) { x.Meta.User = "bob:extra" }, script: "id -u; id -g", want: "7\n9\n"},
		{name: "ids", change: func(x *pb.ExecOp) { x.Meta.User = "1234:5678" }, script: "id -u; id -g; echo $HOME", want: "1234\n5678\n/\n"},
		{name: "unknown user", change: func(x *pb.ExecOp) { x.Meta.User = "eve" }, says: "unable to find user eve"},
		{name: "environment", change: func(x *pb.ExecOp) { x.Meta.Env = []string{"A=1", "A=2", "B=x y"} }, script: "env | sort",
			want: "A=2\nB=x y\nHOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1\n"},
		{name: "proxy", change: func(x *pb.ExecOp) { x.Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "p"} }, script: "echo $HTTP_PROXY $http_proxy", want: "p p\n"},
		{name: "cwd is made", change: func(x *pb.ExecOp) { x.Meta.Cwd = "/a/b"; x.Meta.User = "bob" }, script: "pwd; stat -c %u:%a .", want: "/a/b\n7:755\n"},
		{name: "cwd is a file", change: func(x *pb.ExecOp) { x.Meta.Cwd = "/file" }, says: "working directory /file: is not a directory"},
		{name: "cwd goes up", change: func(x *pb.ExecOp) { x.Meta.Cwd = "/../../x" }, script: "pwd", want: "/x\n"},
		{name: "hostname", change: func(x *pb.ExecOp) { x.Meta.Hostname = "box" }, script: "hostname; cat /etc/hosts",
			want: "box\n127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		{name: "default hostname", change: func(*pb.ExecOp) {}, script: "hostname", want: "buildkitsandbox\n"},
		{name: "extra hosts", change: func(x *pb.ExecOp) { x.Meta.ExtraHosts = []*pb.HostIP{{Host: "db", IP: "10.0.0.1"}} }, script: "tail -1 /etc/hosts", want: "10.0.0.1\tdb\n"},
		{name: "ulimit", change: func(x *pb.ExecOp) { x.Meta.Ulimit = []*pb.Ulimit{{Name: "nofile", Soft: 100, Hard: 200}} }, script: "ulimit -n; ulimit -Hn", want: "100\n200\n"},
		{name: "valid exit code", change: func(x *pb.ExecOp) { x.Meta.ValidExitCodes = []int32{3, 4} }, script: "exit 3", want: ""},
		{name: "invalid exit code", change: func(x *pb.ExecOp) { x.Meta.ValidExitCodes = []int32{3} }, script: "exit 0", says: "exit code: 0"},
		{name: "no network", change: func(x *pb.ExecOp) { x.Network = pb.NetMode_NONE }, script: "ls /sys/class/net", want: "lo\n"},
		{name: "insecure", change: func(x *pb.ExecOp) { x.Security = pb.SecurityMode_INSECURE }, script: "mount -t tmpfs x /tmp2 2>/dev/null; mkdir /m && mount -t tmpfs x /m && echo mounted", want: "mounted\n"},
		{name: "secure", change: func(x *pb.ExecOp) {}, script: "mkdir /m; mount -t tmpfs x /m 2>/dev/null || echo refused", want: "refused\n"},
		{name: "CDI device", change: func(x *pb.ExecOp) { x.CdiDevices = []*pb.CDIDevice{{Name: "v.com/gpu=0"}} }, says: `CDI device "v.com/gpu=0": device not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := shell(c.script)
			c.change(x)
			_, rec, err := run(t, w, Request{Op: execOp(x), Inputs: []cache.Tree{base}})
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("error %v, want %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v: %s", err, rec.stderr())
			}
			if got := rec.stdout(); got != c.want {
				t.Errorf("output %q, want %q", got, c.want)
			}
		})
	}
}

func TestExecNothingOfTheDaemon(t *testing.T) {
	w := newWorker(t)
	t.Setenv("BUILDD_TEST_SECRET", "leak")
	_, got := mustRun(t, w, shell("env; cat /proc/1/environ; ls -l /proc/self/fd | wc -l"), busybox(t, w))
	if strings.Contains(got, "leak") {
		t.Errorf("the daemon's environment reached the step: %s", got)
	}
}

func TestExecFails(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	for _, c := range []struct {
		args []string
		code uint32
		text string
	}{
		{[]string{"/bin/sh", "-c", "exit 7"}, 7, `process "/bin/sh -c exit 7" did not complete successfully: exit code: 7`},
		{[]string{"/bin/false"}, 1, `process "/bin/false" did not complete successfully: exit code: 1`},
		{[]string{"/bin/sh", "-c", "sh -c 'kill -9 $$; true'; exit $?"}, 137, "exit code: 137"},
		{[]string{"nosuch"}, 127, "nosuch"},
		{[]string{"/bin"}, 126, "/bin"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			x := shell("")
			x.Meta.Args = c.args
			_, _, err := run(t, w, Request{Op: execOp(x), Inputs: []cache.Tree{base}})
			var exit *gwpb.ExitError
			if !errors.As(err, &exit) || exit.ExitCode != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want code %d and %q", err, c.code, c.text)
			}
		})
	}
}

func TestExecForeignPlatform(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, "f:755 prog \x7fELF\x02\x01\x01")
	x := shell("")
	x.Meta.Args = []string{"/prog"}
	_, _, err := run(t, w, Request{Op: execOp(x), Inputs: []cache.Tree{base}, Platform: &pb.Platform{OS: "linux", Architecture: "s390x"}})
	if err == nil || !strings.Contains(err.Error(), "platform linux/s390x cannot run on this") || !strings.Contains(err.Error(), "binfmt") {
		t.Errorf("error %v, want one that says how to register an emulator", err)
	}
	// A native program runs whatever the platform is called.
	if _, _, err := run(t, w, Request{Op: execOp(shell("true")), Inputs: []cache.Tree{base}, Platform: &pb.Platform{OS: "linux", Architecture: "s390x"}}); err != nil {
		t.Error(err)
	}
}

func TestExecCancel(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("last waiter left")
	rec := &record{}
	done := make(chan error)
	go func() {
		_, err := w.Run(ctx, Request{Op: execOp(shell("echo started; sleep 1000 & sleep 1000")), Inputs: []cache.Tree{base}, Progress: rec})
		done <- err
	}()
	for rec.stdout() == "" {
		select {
		case err := <-done:
			t.Fatalf("the step ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel(gone)
	select {
	case err := <-done:
		if !errors.Is(err, gone) {
			t.Errorf("error %v, want the cause", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the step goes on")
	}
}

func TestExecLogLimits(t *testing.T) {
	w := newWorker(t)
	w.Logs = LogLimits{Size: 1000, Speed: -1}
	base := busybox(t, w)
	_, got := mustRun(t, w, shell("dd if=/dev/zero bs=1000 count=3000 2>/dev/null; echo the end"), base)
	if len(got) > 1100 || !strings.Contains(got, "[output clipped, log limit 1000B reached]") || strings.Contains(got, "the end") {
		t.Errorf("%d bytes were passed on", len(got))
	}
	_, rec, err := run(t, w, Request{Op: execOp(shell("dd if=/dev/zero bs=1000 count=3000 2>/dev/null; echo the end; false")), Inputs: []cache.Tree{base}})
	if got := rec.stdout(); err == nil || !strings.HasSuffix(got, "the end\n") || len(got) > 1100+tailSize {
		t.Errorf("a step that failed (%v) passed on %d bytes", err, len(got))
	}
}

func TestExecResources(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	_, _, err := run(t, w, Request{
		Op: execOp(shell("dd if=/dev/zero of=/dev/null bs=200M count=1")), Inputs: []cache.Tree{base},
		Resources: &pb.LinuxResources{Memory: 20 << 20, MemorySwap: 20 << 20},
	})
	if err == nil || !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("error %v, want one about memory", err)
	}
	_, _, err = run(t, w, Request{Op: execOp(shell("true")), Inputs: []cache.Tree{base}, Resources: &pb.LinuxResources{Memory: -5}})
	if err == nil || !strings.Contains(err.Error(), "out of range") {
		t.Errorf("error %v, want one about the range", err)
	}
}

func TestTmpfs(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	out, got := mustRun(t, w, shell("echo x > /t/a && df -k /t | tail -1 && ! dd if=/dev/zero of=/t/big bs=1M count=3 2>/dev/null",
		&pb.Mount{Dest: "/t", Input: none, Output: none, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: 2 << 20}}), base)
	if !strings.Contains(got, "2048") {
		t.Errorf("df says %q, want 2048 KiB", got)
	}
	if got := top(t, w, out[0]); len(got) != 0 {
		t.Errorf("layer holds %q", got)
	}
}

func TestMountPointType(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w, "f is/file x")
	_, _, err := run(t, w, Request{Op: execOp(shell("true", &pb.Mount{Dest: "/is/file", Input: none, Output: none, MountType: pb.MountType_TMPFS})), Inputs: []cache.Tree{base}})
	if err == nil || !strings.Contains(err.Error(), "mount /is/file: /is/file is not a directory") {
		t.Errorf("error %v", err)
	}
	_, _, err = run(t, w, Request{Op: execOp(shell("true", &pb.Mount{Dest: "/is/file/below", Input: none, Output: none, MountType: pb.MountType_TMPFS})), Inputs: []cache.Tree{base}})
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("error %v", err)
	}
}

func BenchmarkExec(b *testing.B) {
	w := newWorker(b)
	base := busybox(b, w)
	for b.Loop() {
		mustRun(b, w, shell("true"), base)
	}
}

// BenchmarkCopy copies 20,000 files.
func BenchmarkCopy(b *testing.B) {
	w := newWorker(b)
	var lines []string
	for i := range 20_000 {
		lines = append(lines, fmt.Sprintf("f src/d%d/f%d content %d", i%200, i, i))
	}
	src := grow(b, w, "", lines...)
	base := grow(b, w, "", "f etc/x y")
	for _, c := range []struct {
		name string
		mode int32
	}{{"linked", -1}, {"copied", 0o640}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := runFile(b, w, fileOp(2, copyAction(1, &pb.FileActionCopy{Src: "/src", Dest: "/app", Mode: c.mode})), base, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestCwdInMounts starts in directories that are missing from what is mounted.
func TestCwdInMounts(t *testing.T) {
	w := newWorker(t)
	base := busybox(t, w)
	data := grow(t, w, "", "f a x")
	for _, c := range []struct {
		cwd string
		m   *pb.Mount
	}{
		{"/t/sub", &pb.Mount{Dest: "/t", Input: none, Output: none, MountType: pb.MountType_TMPFS}},
		{"/cache/sub", cacheMount("x", pb.CacheSharingOpt_SHARED)},
		{"/m/sub", &pb.Mount{Dest: "/m", Input: 1, Output: none}},
		{"/m/sub", &pb.Mount{Dest: "/m", Input: 1, Output: none, Readonly: true}},
		{"/m", &pb.Mount{Dest: "/m", Input: 1, Output: none, Readonly: true}},
	} {
		x := shell("pwd", c.m)
		x.Meta.Cwd = c.cwd
		inputs := []cache.Tree{base}
		if c.m.Input == 1 {
			inputs = append(inputs, data)
		}
		out, rec, err := run(t, w, Request{Op: execOp(x), Inputs: inputs})
		if err != nil || rec.stdout() != c.cwd+"\n" {
			t.Errorf("%s in mount of type %s: %q %v", c.cwd, c.m.MountType, rec.stdout(), err)
			continue
		}
		if got := top(t, w, out[0]); len(got) != 0 {
			t.Errorf("%s: layer holds %q", c.cwd, got)
		}
	}
}

func TestMergeDiffPassthrough(t *testing.T) {
	w := newWorker(t)
	a := grow(t, w, "", "f a 1", "f both a")
	b := grow(t, w, "", "f b 2", "f both b")
	over := grow(t, w, a, "f new 3", "w both")
	in := func(n int) []*pb.Input { return make([]*pb.Input, n) }
	out, err := w.Run(t.Context(), Request{Inputs: []cache.Tree{a, b}, Op: &pb.Op{Inputs: in(2), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, w, out[0], "f:644 /a 1", "f:644 /b 2", "f:644 /both b")
	out, err = w.Run(t.Context(), Request{Inputs: []cache.Tree{a, over}, Op: &pb.Op{Inputs: in(2), Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: 0}, Upper: &pb.UpperDiffInput{Input: 1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := top(t, w, out[0]); !slices.Equal(got, []string{"w /both", "/new"}) {
		t.Errorf("difference is %q", got)
	}
	out, err = w.Run(t.Context(), Request{Inputs: []cache.Tree{a}, Op: &pb.Op{Inputs: in(1), Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: none}, Upper: &pb.UpperDiffInput{Input: 0}}}}})
	if err != nil || out[0] != a {
		t.Errorf("difference to nothing is %v %v, want %s", out, err, a)
	}
	out, err = w.Run(t.Context(), Request{Inputs: []cache.Tree{a, b}, Op: &pb.Op{Inputs: in(2), Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: "x", Outputs: []int64{1, 0, 1}}}}})
	if err != nil || !slices.Equal(out, []cache.Tree{b, a, b}) {
		t.Errorf("passed through: %v %v", out, err)
	}
	if _, err := w.Run(t.Context(), Request{Op: &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{}}}}); err == nil {
		t.Error("a source was run")
	}
	if _, err := w.Run(t.Context(), Request{Op: &pb.Op{Inputs: in(1), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{}}}}}}); err == nil {
		t.Error("an op ran without its input")
	}
}
