package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// needles are the forms in which a text could lie somewhere.
func needles(text string) [][]byte {
	out := [][]byte{[]byte(text), []byte(hex.EncodeToString([]byte(text)))}
	for skip := range 3 { // base64 of something before and after it
		s := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", skip) + text))
		out = append(out, []byte(s[4:len(s)-4]))
	}
	return out
}

// found lists the files below dir that hold one of the texts, as they are or
// decompressed, and files whose names do.
func found(t *testing.T, dir string, texts ...string) []string {
	t.Helper()
	var forms [][]byte
	for _, s := range texts {
		forms = append(forms, needles(s)...)
	}
	holds := func(b []byte) bool {
		for _, f := range forms {
			if bytes.Contains(b, f) {
				return true
			}
		}
		return false
	}
	var out []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if holds([]byte(p)) {
			out = append(out, p)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if holds(b) || holds(decompressed(b)) {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// decompressed returns what can be read of gzip and zstd streams, which may begin
// anywhere in a tar.
func decompressed(b []byte) []byte {
	var out bytes.Buffer
	for at := 0; at < len(b); at += 512 {
		switch {
		case bytes.HasPrefix(b[at:], []byte{0x1f, 0x8b, 8}):
			if r, err := gzip.NewReader(bytes.NewReader(b[at:])); err == nil {
				r.Multistream(false)
				_, _ = io.Copy(&out, r)
			}
		case bytes.HasPrefix(b[at:], []byte{0x28, 0xb5, 0x2f, 0xfd}):
			if r, err := zstd.NewReader(bytes.NewReader(b[at:])); err == nil {
				_, _ = io.Copy(&out, r)
				r.Close()
			}
		}
	}
	return out.Bytes()
}

// secrets are what a build is lent, and where they lie on the client's side.
type secrets struct {
	file, env, fail, cancel, unused string
	key                             string // a line of the private key
	args                            []string
}

func newSecrets(t *testing.T) *secrets {
	t.Helper()
	dir := t.TempDir()
	s := &secrets{}
	for id, to := range map[string]*string{"file": &s.file, "env": &s.env, "fail": &s.fail, "cancel": &s.cancel, "unused": &s.unused} {
		*to = "hush-" + rand.Text()
		write(t, dir, id, *to+"\n")
		if id == "env" {
			write(t, dir, id, *to)
		}
		s.args = append(s.args, "--secret", "id="+id+",src="+filepath.Join(dir, id))
	}
	tool(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "key"))
	b, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s.key = strings.Split(string(b), "\n")[2]
	s.args = append(s.args, "--ssh", "default="+filepath.Join(dir, "key"))
	return s
}

func (s *secrets) all() []string { return []string{s.file, s.env, s.fail, s.cancel, s.unused, s.key} }

const secretive = `FROM busybox:latest AS base
RUN echo findme-in-a-layer > /findme
FROM base
RUN --mount=type=secret,id=file grep -q ^hush- /run/secrets/file
RUN --mount=type=secret,id=file,target=/etc/app/token,uid=33,mode=0444 test $(stat -c %u /etc/app/token) = 33 && mkdir /made && wc -c < /etc/app/token > /made/size
RUN --mount=type=secret,id=env,env=TOKEN case $TOKEN in hush-*) ;; *) exit 1 ;; esac
RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK"
RUN --mount=type=secret,id=file --mount=type=cache,target=/cache ls /run/secrets > /cache/list
RUN test ! -s /run/secrets/file && ! ls /etc/app/token/* && test -z "$TOKEN$SSH_AUTH_SOCK" && echo findme-in-the-log
`

// testSecrets builds with secrets and looks for them below the directories of
// those who took part.
func testSecrets(t *testing.T, d *daemon, places ...*daemon) {
	s := newSecrets(t)
	d.busybox()
	dir := buildContext(t, map[string]string{"Dockerfile": secretive})
	out := t.TempDir()
	var said strings.Builder
	for _, compression := range []string{"gzip", "zstd"} {
		r := d.ctl(append(append([]string{"build", "--progress=plain", "--provenance=mode=max", "--metadata-file", filepath.Join(out, compression+".json")}, s.args...),
			"-o", "type=oci,dest="+filepath.Join(out, compression+".tar")+",compression="+compression+",force-compression=true", "-o", "type=image,name=secret", dir)...)
		said.WriteString(r.Out + r.Err)
	}
	said.WriteString(d.ctl(append(append([]string{"build", "--progress=rawjson", "--no-cache"}, s.args...), dir)...).Err)

	// Steps that fail, and that are cancelled.
	r := d.fails([]string{"exit code: 9"}, append(append([]string{"build", "--progress=plain"}, s.args...), buildContext(t, map[string]string{
		"Dockerfile": "FROM busybox:latest\nRUN --mount=type=secret,id=fail --mount=type=secret,id=fail,env=T test -n \"$T\" -a -s /run/secrets/fail && exit 9\n"}))...)
	said.WriteString(r.Out + r.Err)
	d.cancelled(append(append([]string{"build", "--progress=plain"}, s.args...), buildContext(t, map[string]string{
		"Dockerfile": "FROM busybox:latest\nRUN --mount=type=secret,id=cancel --mount=type=secret,id=cancel,env=T sleep 985\n"}))...)
	said.WriteString(d.ctl("debug", "histories").Out)

	for _, p := range places {
		said.WriteString(p.log.String())
		p.stop()
		for _, f := range found(t, p.Root, s.all()...) {
			t.Errorf("a secret is in %s", f)
		}
		p.start()
		for _, f := range found(t, p.Root, s.all()...) {
			t.Errorf("a secret is in %s after a restart", f)
		}
	}
	for _, f := range found(t, out, s.all()...) {
		t.Errorf("a secret was exported to %s", f)
	}
	for _, n := range s.all() {
		if strings.Contains(said.String(), n) {
			t.Error("a secret was printed")
		}
	}

	// The search finds what is there.
	for _, f := range []string{"gzip.tar", "zstd.tar"} {
		if !strings.Contains(strings.Join(found(t, out, "findme-in-a-layer"), " "), f) {
			t.Errorf("what %s holds is not found", f)
		}
	}
	for _, text := range []string{"findme-in-a-layer", "findme-in-the-log"} {
		if len(found(t, d.Root, text)) == 0 {
			t.Errorf("%s is not found in the state directory", text)
		}
	}
}

// cancelled runs a build whose last step sleeps, and cancels it there.
func (d *daemon) cancelled(args ...string) {
	d.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "buildctl"), append([]string{"--addr", d.Addr}, args...)...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); processes("sleep\x00985") == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.t.Error("the step does not start")
			break
		}
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if cmd.Wait() == nil {
		d.t.Error("a cancelled build succeeded")
	}
}

func TestSecretsAreNowhere(t *testing.T) {
	for name, args := range map[string][]string{"native": nil, "runc": {"--oci-worker-binary", "runc"}} {
		t.Run(name, func(t *testing.T) {
			d := startDaemon(t, args...)
			testSecrets(t, d, d)
		})
	}
	t.Run("remote worker", func(t *testing.T) {
		w := startWorker(t)
		d := startDaemon(t, "--worker", w.Addr)
		testSecrets(t, d, d, w)
	})
}
