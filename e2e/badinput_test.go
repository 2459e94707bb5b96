package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// canary is a directory next to everything that a test lets buildd write to. What
// escapes aims at it.
type canary struct{ dir string }

func newCanary(t testing.TB) *canary {
	t.Helper()
	c := &canary{t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.dir, "bird"), []byte("alive"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.check(t) })
	return c
}

// check fails the test if anything was written, changed or removed.
func (c *canary) check(t testing.TB) {
	t.Helper()
	es, err := os.ReadDir(c.dir)
	if err != nil || len(es) != 1 {
		t.Errorf("something wrote outside of the state directory: %v %v", es, err)
	}
	var st unix.Stat_t
	err = unix.Lstat(filepath.Join(c.dir, "bird"), &st)
	b, rerr := os.ReadFile(filepath.Join(c.dir, "bird"))
	if err != nil || rerr != nil || string(b) != "alive" || st.Mode != unix.S_IFREG|0o644 || st.Nlink != 1 || st.Uid != 0 {
		t.Errorf("a file outside of the state directory was changed: %q %+v %v %v", b, st, err, rerr)
	}
}

// alive fails the test unless the daemon still builds, and has not panicked.
func (d *daemon) alive() {
	d.t.Helper()
	d.ctl("build", buildContext(d.t, map[string]string{"Dockerfile": "FROM busybox:latest\nARG N\nRUN echo fine > /fine\n"}))
	if strings.Contains(d.log.String(), "panic") {
		d.t.Error("something panicked")
	}
}

func TestBadDockerfile(t *testing.T) {
	newCanary(t)
	d := startWithBusybox(t)
	reg := startRegistry(t)
	d.ctl("build", "-o", "type=image,push=true,name="+reg+"/some/image:1", buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\n"}))
	zeros := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		name, text string
		line       int // that the error names, 0 for none
		want       []string
		args       []string
	}{
		{"unknown instruction", "FROM busybox\nRUNN true\n", 2, []string{"unknown instruction: RUNN (did you mean RUN?)"}, nil},
		{"bad flag", "FROM busybox\nCOPY --form=a a /b\n", 2, []string{"unknown flag: --form (did you mean from?)"}, nil},
		{"bad value of a flag", "FROM busybox\nRUN true\nRUN --mount=type=cach,target=/x true\n", 3, []string{`"cach" (did you mean cache?)`}, nil},
		{"bad mode", "FROM busybox\nCOPY --chmod=abc Dockerfile /\n", 2, []string{"'abc'", "0755"}, nil},
		{"missing argument", "FROM busybox\nWORKDIR\n", 2, []string{"WORKDIR requires exactly one argument"}, nil},
		{"unterminated heredoc", "FROM busybox\nRUN <<EOF\necho\n", 2, []string{"unterminated heredoc"}, nil},
		{"no FROM", "RUN true\n", 1, []string{"no build stage in current context"}, nil},
		{"bad reference", "FROM busybox:la:test\n", 1, []string{"busybox:la:test", "invalid reference format"}, nil},
		{"missing file", "FROM busybox\nRUN true\nCOPY nothing /x\n", 3, []string{`"/nothing": not found`}, nil},
		{"missing file of a stage", "FROM busybox AS a\nFROM busybox\nCOPY --from=a /nothing /x\n", 3, []string{`"/nothing": not found`}, nil},
		{"file outside the context", "FROM busybox\nCOPY ../../etc/passwd /x\n", 2, []string{`"/etc/passwd": not found`}, nil},
		{"missing stage", "FROM busybox\nCOPY --from=" + reg + "/no/stage /x /y\n", 2, []string{reg + "/no/stage", "not found"}, nil},
		{"stage that comes later", "FROM busybox AS a\nCOPY --from=1 /x /y\nFROM busybox\nCOPY --from=a /y /y\n", 2, []string{"circular dependency", "a -> stage-1 -> a"}, nil},
		{"missing target", "FROM busybox AS a\n", 0, []string{`target stage "b" could not be found`}, []string{"--target=b"}},
		{"cyclic stages", "FROM busybox AS a\nCOPY --from=b /x /y\nFROM busybox AS b\nCOPY --from=a /y /x\n", 2, []string{"circular dependency detected on stage: a (a -> b -> a)"}, nil},
		{"own stage", "FROM busybox AS a\nCOPY --from=a /x /y\n", 2, []string{"circular dependency"}, nil},
		{"missing ARG in FROM", "ARG V\nFROM busybox:$V\n", 2, []string{`"busybox:"`, "invalid reference format"}, nil},
		{"undeclared ARG in FROM", "FROM ${BASE}\n", 1, []string{"base name (${BASE}) should not be blank"}, nil},
		{"unreachable registry", "FROM 127.0.0.1:9/x/y:1\n", 1, []string{"127.0.0.1:9/x/y:1", "registry cannot be reached", "check the network", "import the image"}, nil},
		{"missing image", "FROM " + reg + "/no/image:7\n", 1, []string{reg + "/no/image:7", "not found"}, nil},
		{"wrong digest", "FROM " + reg + "/some/image:1@" + zeros + "\n", 1, []string{zeros, "not found"}, nil},
		{"malformed digest", "FROM busybox@sha256:00\n", 1, []string{"busybox@sha256:00", "invalid reference format"}, nil},
		{"unreachable URL", "FROM busybox\nADD http://127.0.0.1:9/x /\n", 2, []string{"http://127.0.0.1:9/x", "connection refused", "check the URL"}, nil},
		{"wrong checksum", "FROM busybox\nADD --checksum=" + zeros + " http://" + reg + "/v2/ /x\n", 2, []string{zeros}, nil},
		{"malformed checksum", "FROM busybox\nADD --checksum=sha256:zz http://" + reg + "/v2/ /x\n", 2, []string{`"sha256:zz"`}, nil},
		{"unreachable git", "FROM busybox\nADD git://127.0.0.1:9/x.git /\n", 2, []string{"git://127.0.0.1:9/x.git", "refused"}, nil},
		{"missing secret", "FROM busybox\nRUN --mount=type=secret,id=s,required=true true\n", 2, []string{"secret s: not found", "--secret id=s,src=FILE"}, nil},
		{"missing user", "FROM busybox\nUSER nobody-known\nRUN true\n", 3, []string{`"nobody-known"`, "passwd"}, nil},
		{"missing command", "FROM busybox\nRUN [\"no-command\"]\n", 2, []string{`"no-command"`, "not found in $PATH"}, nil},
		{"failing command", "FROM busybox\nRUN echo said; exit 3\n", 2, []string{"said", "exit code: 3"}, nil},
		{"entitlement", "FROM busybox\nRUN --security=insecure true\n", 2, []string{"security.insecure is not allowed", "--allow security.insecure"}, nil},
		{"bad port", "FROM busybox\nEXPOSE 99999\n", 2, []string{"99999"}, nil},
		{"bad duration", "FROM busybox\nHEALTHCHECK --interval=x CMD true\n", 2, []string{`"x"`}, nil},
		{"empty file", "", 0, []string{"cannot be empty"}, nil},
		{"unknown frontend", "# syntax=127.0.0.1:9/front/end:1\nFROM busybox\n", 1, []string{"127.0.0.1:9/front/end:1", "cannot be reached"}, nil},
		{"missing Dockerfile", "FROM busybox\n", 0, []string{"No.Dockerfile"}, []string{"--file=No.Dockerfile"}},
		{"bad exporter", "FROM busybox\n", 0, []string{`"nothing" is not known`, "oci"}, []string{"--output=type=nothing"}},
		{"bad compression", "FROM busybox\n", 0, []string{"lzma", "gzip", "zstd"}, []string{"--output=type=oci,dest=/dev/null,compression=lzma"}},
		{"unwritable destination", "FROM busybox\n", 0, []string{"/nonexistent/dir"}, []string{"--output=type=oci,dest=/nonexistent/dir/x"}},
		{"bad platform", "FROM busybox\n", 0, []string{"no/such/platform/at/all"}, []string{"--platform=no/such/platform/at/all"}},
		{"bad build argument", "FROM busybox\n", 0, []string{"BUILDKIT_MULTI_PLATFORM"}, []string{"--build-arg=BUILDKIT_MULTI_PLATFORM=maybe"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := d.with(t)
			dir := buildContext(t, map[string]string{"Dockerfile": c.text})
			want := c.want
			if c.line > 0 {
				lines := strings.Split(c.text, "\n")
				want = append(want, fmt.Sprintf("Dockerfile:%d\n", c.line), fmt.Sprintf("%4d | >>> %s\n", c.line, lines[c.line-1]))
				if c.line > 1 {
					want = append(want, fmt.Sprintf("%4d |     %s\n", c.line-1, lines[c.line-2]))
				}
			}
			d.fails(want, append([]string{"build", "--progress=plain"}, append(c.args, dir)...)...)
		})
	}
	d.alive()
	if left, _ := os.ReadDir(filepath.Join(d.Root, "run")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadConfiguration(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, toml string
		args, want []string
	}{
		{"wrong type", "root = 7\n", nil, []string{"buildkitd.toml:1:8", "root"}},
		{"syntax", "debug = true\nroot = \n", nil, []string{"buildkitd.toml:2:"}},
		{"size", "[worker.oci]\nmaxUsedSpace = \"lots\"\n", nil, []string{"buildkitd.toml:2:", "maxUsedSpace", `"lots"`, `"512MB"`}},
		{"network", "[worker.oci]\nnetworkMode = \"magic\"\n", nil, []string{`"magic"`, "auto, bridge, cni, host, none"}},
		{"entitlement", "insecure-entitlements = [\"all\"]\n", nil, []string{`"all"`, "network.host"}},
		{"address", "", []string{"--addr", "carrier://pigeon"}, []string{`"carrier://pigeon"`, "unix://PATH"}},
		{"flag", "", []string{"--colour"}, []string{"unknown flag: --colour"}},
		{"missing key", "", []string{"--tlscert", "/nonexistent/cert"}, []string{"/nonexistent/cert", "want both or neither"}},
		{"missing certificate", "", []string{"--tlscert", "/nonexistent/cert", "--tlskey", "/nonexistent/key"}, []string{"/nonexistent/cert", "no such file"}},
		{"runtime", "", []string{"--oci-worker-binary", "no-such-runtime"}, []string{"no-such-runtime", "not found in $PATH"}},
		{"group", "", []string{"--group", "no-such-group"}, []string{"no-such-group", "want the name or number of a group"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, "buildkitd.toml")
			if err := os.WriteFile(file, []byte(c.toml), 0o600); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"--root", filepath.Join(t.TempDir(), "state"), "--config", file}, c.args...)
			if !strings.Contains(strings.Join(c.args, " "), "--addr") {
				args = append(args, "--addr", "unix://"+filepath.Join(dir, "sock"))
			}
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "buildd"), args...)
			out, err := cmd.CombinedOutput()
			if err == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(string(out), w) {
					t.Errorf("does not say %q:\n%s", w, out)
				}
			}
			if strings.Contains(string(out), "goroutine") {
				t.Errorf("panic:\n%s", out)
			}
		})
	}
	t.Run("unknown key", func(t *testing.T) {
		file := filepath.Join(dir, "buildkitd.toml")
		if err := os.WriteFile(file, []byte("[worker.oci]\n  colour = \"blue\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		d := startDaemon(t, "--config", file)
		if !strings.Contains(d.log.String(), `buildkitd.toml:2: key \"worker.oci.colour\"`) {
			t.Errorf("no warning:\n%s", d.log)
		}
	})
}
