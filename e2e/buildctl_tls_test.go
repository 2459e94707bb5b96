package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBuildctlTLS(t *testing.T) {
	keys := t.TempDir()
	ca, other := newAuthority(t, keys, "ca"), newAuthority(t, keys, "other")
	ca.issue("server")
	ca.issue("client")
	other.issue("stranger")
	file := func(name string) string { return filepath.Join(keys, name+".pem") }

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := "tcp://" + l.Addr().String()
	l.Close()
	d := startDaemon(t, "--addr", addr, "--tlscacert", file("ca"), "--tlscert", file("server"), "--tlskey", file("server-key"))
	d.Addr = addr
	ctx := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "x"})

	good := []string{"--tlscacert", file("ca"), "--tlscert", file("client"), "--tlskey", file("client-key")}
	out := t.TempDir()
	d.ctl(append(good, "build", "-o", out, ctx)...)
	if got := readFile(t, out, "a"); got != "x" {
		t.Errorf("a holds %q", got)
	}
	d.ctl(append(good, "--tlsservername", "127.0.0.1", "debug", "info")...)
	dir := t.TempDir()
	for from, to := range map[string]string{"ca": "ca.pem", "client": "cert.pem", "client-key": "key.pem"} {
		if err := os.WriteFile(filepath.Join(dir, to), []byte(readFile(t, file(from))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.ctl("--tlsdir", dir, "debug", "info")

	for name, args := range map[string][]string{
		"no TLS":               nil,
		"no client cert":       {"--tlscacert", file("ca")},
		"another's client":     {"--tlscacert", file("ca"), "--tlscert", file("stranger"), "--tlskey", file("stranger-key")},
		"another CA":           append([]string{"--tlscacert", file("other")}, good[2:]...),
		"another server name":  append(good, "--tlsservername", "elsewhere"),
		"a file that is none":  {"--tlscacert", "/nope"},
		"a key without a cert": {"--tlskey", file("client-key")},
	} {
		r := d.try(t.Context(), append(args, "debug", "info")...)
		if r.Exit != 1 || !strings.Contains(r.Err, "error: ") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
