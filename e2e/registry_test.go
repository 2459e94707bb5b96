package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// startRegistry starts Debian's docker-registry on a free port of the loopback
// interface and returns HOST:PORT.
func startRegistry(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: %s}\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("docker-registry (Debian's package) is needed: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(end) {
			t.Fatalf("registry does not listen:\n%s", log.String())
		}
	}
}

// tool runs a program of other people, which must succeed.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestOCIArchiveIsAcceptedByOthers(t *testing.T) {
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN echo hi > /hi && rm /etc/group\nUSER daemon\nCMD [\"cat\", \"/hi\"]\n"})
	work := t.TempDir()
	for _, compression := range []string{"gzip", "zstd", "uncompressed"} {
		archive := filepath.Join(work, compression+".tar")
		d.ctl("build", "-o", "type=oci,dest="+archive+",name=example.com/hi:1,compression="+compression+",force-compression=true", dir)
		inspect := tool(t, "skopeo", "inspect", "oci-archive:"+archive)
		if !strings.Contains(inspect, `"Layers"`) {
			t.Errorf("%s: skopeo says\n%s", compression, inspect)
		}
	}
	layout := filepath.Join(work, "layout")
	tool(t, "skopeo", "copy", "oci-archive:"+filepath.Join(work, "gzip.tar"), "oci:"+layout+":hi")
	bundle := filepath.Join(work, "bundle")
	tool(t, "umoci", "unpack", "--image", layout+":hi", bundle)
	b, err := os.ReadFile(filepath.Join(bundle, "rootfs/hi"))
	if err != nil || string(b) != "hi\n" {
		t.Errorf("/hi is %q: %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(bundle, "rootfs/etc/group")); !os.IsNotExist(err) {
		t.Errorf("/etc/group was removed by the build, but is there: %v", err)
	}
}

func TestPushedImageComesBackByteForByte(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nCOPY f /f\nRUN date > /date\n", "f": "f"})
	meta := filepath.Join(t.TempDir(), "meta.json")
	ref := reg + "/team/app:1"
	d.ctl("build", "-o", "type=image,push=true,name="+ref, "--metadata-file", meta, dir)
	b, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	pulled := filepath.Join(t.TempDir(), "pulled")
	tool(t, "skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", "docker://"+ref, "oci:"+pulled+":app")
	archive := filepath.Join(t.TempDir(), "direct.tar")
	direct := filepath.Join(t.TempDir(), "direct")
	d.ctl("build", "-o", "type=oci,dest="+archive, dir)
	tool(t, "skopeo", "copy", "--preserve-digests", "oci-archive:"+archive, "oci:"+direct+":app")
	got, want := blobs(t, pulled), blobs(t, direct)
	if len(want) < 4 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the registry gave back %v, want %v", got, want)
	}
	digest := fmt.Sprint(m["containerimage.digest"])
	if _, err := os.Stat(filepath.Join(pulled, "blobs/sha256", strings.TrimPrefix(digest, "sha256:"))); err != nil {
		t.Errorf("--metadata-file names %s: %v", digest, err)
	}

	// Another daemon builds on it without having been told anything but the name.
	other := startDaemon(t)
	child := buildContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nRUN test -f /f && test -f /date\n"})
	other.ctl("build", "-t", "child", child)
}

// blobs lists the names and sizes of an OCI layout's blobs.
func blobs(t *testing.T, layout string) map[string]int64 {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(layout, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, e := range es {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fi.Size()
	}
	return out
}

func TestTruncatedAndWrongLayersAreRefused(t *testing.T) {
	reg := startRegistry(t)
	d := startWithBusybox(t)
	ref := reg + "/bad/base:1"
	d.ctl("build", "-o", "type=image,push=true,name="+ref, buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN head -c 100000 /dev/urandom > /noise\n"}))
	for name, spoil := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"changed":   func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			layer := topLayer(t, ref)
			proxy := spoilingProxy(t, reg, layer, spoil)
			other := startDaemon(t)
			dir := buildContext(t, map[string]string{"Dockerfile": "FROM " + proxy + "/bad/base:1\nRUN true\n"})
			other.fails([]string{layer, "Dockerfile:2\n"}, "build", "--progress=plain", "-t", "x", dir)
			good := buildContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nRUN test -f /noise\n"})
			other.ctl("build", "-t", "x", good) // nothing of the spoilt layer was kept
		})
	}
}

func topLayer(t *testing.T, ref string) string {
	t.Helper()
	var m ocispecs.Manifest
	if err := json.Unmarshal([]byte(tool(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+ref)), &m); err != nil {
		t.Fatal(err)
	}
	return m.Layers[len(m.Layers)-1].Digest.String()
}
