package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// startWorker starts a buildd worker on loopback; it ends with the test, which
// fails if anything is left behind.
func startWorker(t testing.TB, args ...string) *daemon {
	t.Helper()
	w := &daemon{t: t, Root: filepath.Join(t.TempDir(), "worker"), Addr: freeAddress(t), args: append([]string{"worker"}, args...), log: &syncBuffer{}}
	w.start()
	t.Cleanup(func() {
		w.stop()
		w.checkClean()
		if t.Failed() {
			t.Logf("worker's log:\n%s", w.log)
		}
	})
	return w
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "tcp://" + l.Addr().String()
}

// busy tells whether a worker runs a step.
func (d *daemon) busy() bool {
	steps, _ := os.ReadDir(filepath.Join(d.Root, "run"))
	return len(steps) > 0
}

// workedOn is how many steps a worker has run.
func (d *daemon) workedOn() int { return strings.Count(d.log.String(), "grpc.method=Run ") }

func within(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen within %s that %s", limit, what)
		}
	}
}

// program compiles a static Go program.
func program(t testing.TB, dir, name, source string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// askAgent prints how many keys an SSH agent has.
const askAgent = `package main

import ("encoding/binary"; "fmt"; "io"; "net"; "os")

func main() {
	c, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	if err != nil { panic(err) }
	c.Write([]byte{0, 0, 0, 1, 11})
	head := make([]byte, 9)
	if _, err := io.ReadFull(c, head); err != nil { panic(err) }
	fmt.Printf("keys: %d\n", binary.BigEndian.Uint32(head[5:]))
}
`

func sshKey(t testing.TB) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const workerDockerfile = `FROM busybox:latest AS build
COPY src /src
RUN --mount=type=cache,target=/cache tr a-z A-Z < /src/a > /a && mkdir -p /d/e && ln /a /d/a && ln -s a /d/l && mknod /d/p p && cp /a /cache
RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=token,env=TOKEN test "$(cat /run/secrets/token)" = "$TOKEN" && echo "$TOKEN" | wc -c > /length
RUN --mount=type=ssh --mount=type=bind,source=src,target=/tools /tools/ask > /keys
RUN --mount=type=bind,from=busybox,target=/other,rw echo lost > /other/lost && ls /other > /list && rm -r /src && chown -R daemon /d && chmod 4755 /a
FROM busybox:latest
COPY --from=build --chown=1:1 /d /d
COPY --from=build /a /length /keys /list /
RUN touch /d/new && rm /d/l && stat -c '%n %f %u %g %h %s' / /a /d /d/* > /listing && sed -i s/../x/ /a
USER daemon
WORKDIR /home/x
ENTRYPOINT ["cat", "/a"]
`

// TestWorkerMakesTheSameImage builds on this machine and on a worker.
func TestWorkerMakesTheSameImage(t *testing.T) {
	w := startWorker(t)
	local, remote := startDaemon(t), startDaemon(t, "--worker", w.Addr)
	dir := buildContext(t, map[string]string{"Dockerfile": workerDockerfile, "src/a": "some text", "src/sub/b": "b"})
	program(t, filepath.Join(dir, "src"), "ask", askAgent)
	key := sshKey(t)
	secret := filepath.Join(t.TempDir(), "token")
	write(t, filepath.Dir(secret), "token", "geheim-4711")
	build := func(d *daemon) (digest, progress string) {
		out := filepath.Join(t.TempDir(), "out.tar")
		meta := filepath.Join(t.TempDir(), "meta.json")
		r := d.ctl("build", "--progress=plain", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--secret", "id=token,src="+secret, "--ssh", "default="+key,
			"--metadata-file", meta, "-o", "type=oci,rewrite-timestamp=true,dest="+out, dir)
		b, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`"containerimage.digest": *"([^"]+)"`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("no digest in %s", b)
		}
		return string(m[1]), r.Err
	}
	local.busybox()
	remote.busybox()
	want, _ := build(local)
	before := w.workedOn()
	got, progress := build(remote)
	if got != want {
		t.Errorf("the image of the worker is %s, want %s\n%s", got, want, progress)
	}
	if n := w.workedOn() - before; n != 9 {
		t.Errorf("the worker ran %d steps, want all 9", n)
	}
	if local.log.String() == "" || strings.Contains(w.log.String(), "geheim") || strings.Contains(remote.log.String(), "geheim") {
		t.Error("a secret is in a log")
	}
	for _, d := range []*daemon{w, remote} {
		if out, err := exec.Command("grep", "-rl", "geheim-4711", d.Root).CombinedOutput(); err == nil {
			t.Errorf("files that hold the secret:\n%s", out)
		}
	}
	if w.busy() {
		t.Error("the worker has steps left")
	}
	// What is cached needs no worker, and what is not says what it lacks.
	w.kill()
	if r := remote.ctl("build", "--progress=plain", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--secret", "id=token,src="+secret, "--ssh", "default="+key, dir); len(r.ran()) > 0 {
		t.Errorf("ran again: %q", r.ran())
	}
	write(t, dir, "src/a", "another text")
	remote.fails([]string{"no worker can be reached", w.Addr, "COPY src /src"}, "build", dir)
	w.start()
	remote.ctl("build", "--secret", "id=token,src="+secret, "--ssh", "default="+key, dir)
}

func TestWorkerFailures(t *testing.T) {
	w := startWorker(t)
	d := startDaemon(t, "--worker", w.Addr)
	d.busybox()
	for _, c := range []struct {
		line string
		says []string
	}{
		{"RUN echo so far; exit 7", []string{"exit code: 7", "so far", "Dockerfile:2"}},
		{"RUN --mount=type=secret,id=none,required=true true", []string{"secret none", "not found", "Dockerfile:2"}},
		{"COPY --from=busybox /none /", []string{"/none", "no such file", "Dockerfile:2"}},
	} {
		d.fails(c.says, "build", "--progress=plain", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\n" + c.line + "\n"}))
	}
	long := func(n int) string { return strconv.Itoa(1e6 + 10*os.Getpid() + n) } // seconds that nobody else sleeps
	t.Run("worker killed", func(t *testing.T) {
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo one > /one\nRUN echo begun && sleep " + long(1) + "\n"})
		done := make(chan run, 1)
		go func() { done <- d.try(context.WithoutCancel(t.Context()), "build", "--progress=plain", dir) }()
		within(t, time.Minute, "the step sleeps", func() bool { return sleeps(long(1)) })
		w.kill()
		r := <-done
		if r.Exit == 0 || !strings.Contains(r.Err, "worker "+w.Addr) || !strings.Contains(r.Err, "connection broke") {
			t.Errorf("exit %d\n%s", r.Exit, r.Err)
		}
		within(t, 10*time.Second, "the command ends with the worker", func() bool { return !sleeps(long(1)) })
		w.start()
		write(t, dir, "Dockerfile", "FROM busybox:latest\nRUN echo one > /one\nRUN cat /one\n")
		if ran := d.ctl("build", "--progress=plain", dir).ran(); len(ran) != 1 {
			t.Errorf("after the worker is back %q ran, want the last step", ran)
		}
	})
	t.Run("daemon killed", func(t *testing.T) {
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN sleep " + long(2) + "\n"})
		done := make(chan run, 1)
		go func() { done <- d.try(context.WithoutCancel(t.Context()), "build", dir) }()
		within(t, time.Minute, "the step sleeps", func() bool { return sleeps(long(2)) })
		d.kill()
		<-done
		within(t, 10*time.Second, "the worker stops the step", func() bool { return !sleeps(long(2)) && !w.busy() })
		d.start()
	})
	t.Run("cancelled", func(t *testing.T) {
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN sleep " + long(3) + "\n"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan run, 1)
		go func() { done <- d.try(ctx, "build", dir) }()
		within(t, time.Minute, "the step sleeps", func() bool { return sleeps(long(3)) })
		cancel()
		if r := <-done; r.Exit == 0 {
			t.Error("a cancelled build succeeded")
		}
		within(t, 10*time.Second, "the worker stops the step", func() bool { return !sleeps(long(3)) && !w.busy() })
	})
}

// sleeps tells whether a process sleeps for so many seconds.
func sleeps(n string) bool {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && bytes.Equal(b, []byte("sleep\x00"+n+"\x00")) {
			return true
		}
	}
	return false
}

// TestWorkerTakesOver kills the one of two workers that runs a step of which
// nothing was heard yet.
func TestWorkerTakesOver(t *testing.T) {
	ws := []*daemon{startWorker(t), startWorker(t)}
	d := startDaemon(t, "--worker", ws[0].Addr, "--worker", ws[1].Addr)
	d.busybox()
	long := "2.5" + strconv.Itoa(os.Getpid())
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN sleep " + long + " && echo done > /f\nRUN cat /f\n"})
	done := make(chan run, 1)
	go func() { done <- d.try(context.WithoutCancel(t.Context()), "build", "--progress=plain", dir) }()
	within(t, time.Minute, "a step sleeps", func() bool { return sleeps(long) })
	for _, w := range ws {
		if w.busy() {
			w.kill()
			defer w.start()
			break
		}
	}
	if r := <-done; r.Exit != 0 || !strings.Contains(r.Err, "done") {
		t.Errorf("exit %d\n%s", r.Exit, r.Err)
	}
	if !strings.Contains(d.log.String(), "another one is tried") {
		t.Error("nothing is logged of the worker that was lost")
	}
}

func TestWorkerTLS(t *testing.T) {
	dir := t.TempDir()
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other")
	ca.issue("worker")
	ca.issue("daemon")
	other.issue("stranger")
	file := func(name string) string { return filepath.Join(dir, name+".pem") }
	w := startWorker(t, "--tlscert", file("worker"), "--tlskey", file("worker-key"), "--tlscacert", file("ca"))
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	build := func(says string, args ...string) {
		t.Helper()
		d := startDaemon(t, append([]string{"--worker", w.Addr}, args...)...)
		if says == "" {
			d.ctl("build", ctx)
		} else if log := d.log.String(); !strings.Contains(log, "cannot be reached") || !strings.Contains(log, says) {
			t.Errorf("the daemon does not say %q:\n%s", says, log)
		}
	}
	build("", "--worker-tlscacert", file("ca"), "--worker-tlscert", file("daemon"), "--worker-tlskey", file("daemon-key"))
	build("certificate", "--worker-tlscacert", file("ca"))
	build("unknown authority", "--worker-tlscacert", file("other"), "--worker-tlscert", file("daemon"), "--worker-tlskey", file("daemon-key"))
	build("certificate", "--worker-tlscacert", file("ca"), "--worker-tlscert", file("stranger"), "--worker-tlskey", file("stranger-key"))
	build("want TLS")
}

// authority is a CA for tests.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t testing.TB, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.write(name, a.cert, pub)
	return a
}

// issue writes NAME.pem and NAME-key.pem, for either end of a connection.
func (a *authority) issue(name string) {
	a.t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, pub)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.save(name+"-key", "PRIVATE KEY", der)
}

func (a *authority) write(name string, cert *x509.Certificate, pub ed25519.PublicKey) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, pub, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.save(name, "CERTIFICATE", der)
}

func (a *authority) save(name, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// TestWorkerComesLater starts a daemon before its worker.
func TestWorkerComesLater(t *testing.T) {
	addr := freeAddress(t)
	d := startDaemon(t, "--worker", addr)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	d.fails([]string{"no worker can be reached", addr, "refused"}, "build", dir)
	if n := strings.Count(d.log.String(), "cannot be reached, it is left out"); n != 1 {
		t.Errorf("%d times it is logged that the worker is left out", n)
	}
	w := &daemon{t: t, Root: filepath.Join(t.TempDir(), "worker"), Addr: addr, args: []string{"worker"}, log: &syncBuffer{}}
	w.start()
	defer w.stop()
	d.ctl("build", dir)
	conn, err := grpc.NewClient(strings.TrimPrefix(addr, "tcp://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v %v", h, err)
	}
	// Two workers of one directory are one too many.
	second := exec.Command(filepath.Join(bin, "buildd"), "worker", "--root", w.Root, "--addr", freeAddress(t))
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another daemon has") {
		t.Errorf("%v\n%s", err, out)
	}
}
