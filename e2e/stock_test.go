package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// stockClients builds BuildKit's buildctl and docker's buildx, once per machine.
var stockClients = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("../script/stock-clients")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build the stock clients: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// stock runs one of the stock clients.
func stock(t *testing.T, home, name string, args ...string) run {
	t.Helper()
	dir, err := stockClients()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, name), args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "BUILDX_CONFIG=" + filepath.Join(home, "buildx"), "DOCKER_CONFIG=" + filepath.Join(home, "docker"), "TMPDIR=" + os.TempDir()}
	var out, errs syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	r := run{Out: out.String(), Err: errs.String()}
	if err != nil {
		r.Exit = 1
	}
	return r
}

// shop is a Dockerfile with what an application's has.
var shop = map[string]string{
	"Dockerfile": `# syntax=docker/dockerfile:1
FROM busybox:latest AS build
ARG VERSION=none
WORKDIR /src
COPY src/ .
RUN --mount=type=cache,target=/cache --mount=type=secret,id=key,required=true \
    cat *.txt | tr a-z A-Z > /out && wc -c < /run/secrets/key >> /cache/keys && echo $VERSION >> /out
FROM busybox:latest AS shop
LABEL org.opencontainers.image.title=shop
RUN <<END
  mkdir /data
  chown 33 /data
END
COPY --link --from=build --chmod=0644 /out /srv/out
ENV PORT=80
USER 33
VOLUME /data
EXPOSE 80/tcp
HEALTHCHECK --interval=30s CMD true
CMD ["cat", "/srv/out"]
`,
	".dockerignore": "src/ignored.txt\n",
	"src/a.txt":     "apples\n",
	"src/b.txt":     "bread\n", "src/ignored.txt": "ignored\n",
}

const shopOut = "APPLES\nBREAD\n7\n"

// checkShop looks at a pushed shop with skopeo.
func checkShop(t *testing.T, ref string) {
	t.Helper()
	var config ocispecs.Image
	if err := json.Unmarshal([]byte(tool(t, "skopeo", "inspect", "--config", "--tls-verify=false", "docker://"+ref)), &config); err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if c.User != "33" || c.Labels["org.opencontainers.image.title"] != "shop" || len(c.Volumes) != 1 || len(c.ExposedPorts) != 1 || strings.Join(c.Cmd, " ") != "cat /srv/out" {
		t.Errorf("configuration of %s: %+v", ref, c)
	}
	dir := t.TempDir()
	tool(t, "skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+dir+"/layout:x")
	tool(t, "umoci", "unpack", "--image", dir+"/layout:x", dir+"/bundle")
	if out := readFile(t, dir, "bundle/rootfs/srv/out"); out != shopOut {
		t.Errorf("/srv/out holds %q, want %q", out, shopOut)
	}
}

// digestOf reads the digest of the result from a metadata file.
func digestOf(t *testing.T, file string) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(readFile(t, filepath.Dir(file), filepath.Base(file))), &m); err != nil {
		t.Fatal(err)
	}
	d, _ := m["containerimage.digest"].(string)
	if !strings.HasPrefix(d, "sha256:") {
		t.Errorf("%s names no digest: %v", file, m)
	}
	return d
}

func rawDigest(t *testing.T, ref string) string {
	t.Helper()
	return strings.TrimSpace(tool(t, "sh", "-c", "skopeo inspect --raw --tls-verify=false docker://"+ref+" | sha256sum | cut -d' ' -f1"))
}

func TestStockBuildctl(t *testing.T) {
	d := startWithBusybox(t)
	reg := startRegistry(t)
	home := t.TempDir()
	dir := buildContext(t, shop)
	write(t, home, "key", "hush")
	buildctl := func(args ...string) run {
		return stock(t, home, "buildctl", append([]string{"--addr", d.Addr}, args...)...)
	}
	must := func(args ...string) run {
		t.Helper()
		r := buildctl(args...)
		if r.Exit != 0 {
			t.Fatalf("buildctl %s:\n%s%s", strings.Join(args, " "), r.Out, r.Err)
		}
		return r
	}
	build := func(dir string, args ...string) []string {
		return append([]string{"build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context=" + dir, "--local=dockerfile=" + dir}, args...)
	}
	key := "--secret=id=key,src=" + filepath.Join(home, "key")

	if r := must(build("../examples/workdir", "--output=type=image,name=workdir")...); !strings.Contains(r.Err, "/a/b/c\n") {
		t.Errorf("examples/workdir does not print /a/b/c:\n%s", r.Err)
	}
	meta := filepath.Join(home, "meta.json")
	archive := filepath.Join(home, "oci.tar")
	ref := reg + "/stock/buildctl:1"
	must(build(dir, key, "--opt=build-arg:VERSION=7", "--output=type=image,name="+ref+",push=true", "--output=type=oci,dest="+archive, "--metadata-file="+meta)...)
	checkShop(t, ref)
	if got, want := digestOf(t, meta), rawDigest(t, ref); got != "sha256:"+want {
		t.Errorf("the metadata file says %s, the registry has %s", got, want)
	}
	tool(t, "skopeo", "inspect", "oci-archive:"+archive)
	again := must(build(dir, key, "--opt=build-arg:VERSION=7", "--output=type=local,dest="+filepath.Join(home, "local"))...)
	if ran := again.ran(); len(ran) > 0 {
		t.Errorf("not cached: %q", ran)
	}
	if out := readFile(t, home, "local/srv/out"); out != shopOut {
		t.Errorf("/srv/out holds %q", out)
	}
	if r := must(build(dir, key, "--opt=target=build", "--output=type=tar,dest=-")...); len(r.Out) < 10240 {
		t.Errorf("a tar on standard output has %d bytes", len(r.Out))
	}
	if r := buildctl(build(dir, "--no-cache")...); r.Exit == 0 || !strings.Contains(r.Err, "Dockerfile:6\n") || !strings.Contains(r.Err, "secret key: not found") {
		t.Errorf("without the secret:\n%s", r.Err)
	}
	for _, args := range [][]string{
		{"debug", "workers", "-v"}, {"debug", "info"}, {"debug", "histories"}, {"du", "-v"}, {"prune"}, {"prune-histories"},
	} {
		if r := must(args...); args[0] != "prune-histories" && r.Out == "" {
			t.Errorf("buildctl %s prints nothing", strings.Join(args, " "))
		}
	}
	d.busybox()
	must(build(dir, key, "--opt=build-arg:VERSION=7")...)
}

func TestStockBuildx(t *testing.T) {
	d := startWithBusybox(t)
	reg := startRegistry(t)
	home := t.TempDir()
	dir := buildContext(t, shop)
	write(t, home, "key", "hush")
	buildx := func(args ...string) run { return stock(t, home, "buildx", args...) }
	must := func(args ...string) run {
		t.Helper()
		r := buildx(args...)
		if r.Exit != 0 {
			t.Fatalf("buildx %s:\n%s%s", strings.Join(args, " "), r.Out, r.Err)
		}
		return r
	}
	build := func(args ...string) []string {
		return append([]string{"build", "--builder=e2e", "--progress=plain"}, args...)
	}
	key := "--secret=id=key,src=" + filepath.Join(home, "key")

	must("create", "--name=e2e", "--driver=remote", d.Addr)
	if r := must("inspect", "--bootstrap", "e2e"); !strings.Contains(r.Out, "running") || !strings.Contains(r.Out, "linux/amd64") && !strings.Contains(r.Out, "linux/arm64") {
		t.Errorf("inspect:\n%s", r.Out)
	}
	if r := must(build("-t", "workdir", "--output=type=image", "../examples/workdir")...); !strings.Contains(r.Err, "/a/b/c\n") {
		t.Errorf("examples/workdir does not print /a/b/c:\n%s", r.Err)
	}
	meta := filepath.Join(home, "meta.json")
	ref := reg + "/stock/buildx:1"
	must(build(key, "--build-arg=VERSION=7", "-t", ref, "--push", "--metadata-file="+meta, dir)...)
	checkShop(t, ref)
	if got, want := digestOf(t, meta), rawDigest(t, ref); got != "sha256:"+want {
		t.Errorf("the metadata file says %s, the registry has %s", got, want)
	}
	if r := must("imagetools", "inspect", ref); !strings.Contains(r.Out, ref) {
		t.Errorf("imagetools inspect:\n%s", r.Out)
	}
	archive := filepath.Join(home, "oci.tar")
	again := must(build(key, "--build-arg=VERSION=7", "--output=type=oci,dest="+archive, "--output=type=local,dest="+filepath.Join(home, "local"), dir)...)
	if ran := again.ran(); len(ran) > 0 {
		t.Errorf("not cached: %q", ran)
	}
	tool(t, "tar", "-tf", archive, "oci-layout", "index.json")
	if out := readFile(t, home, "local/srv/out"); out != shopOut {
		t.Errorf("/srv/out holds %q", out)
	}
	must(build(key, "--build-arg=VERSION=7", "--provenance=mode=max", "-t", reg+"/stock/buildx:max", "--push", dir)...)
	checkShop(t, reg+"/stock/buildx:max")
	must(build("--no-cache", "--target=build", key, "--output=type=docker,dest="+filepath.Join(home, "docker.tar"), dir)...)

	// Questions about a Dockerfile.
	if r := must(build("--check", dir)...); !strings.Contains(r.Out+r.Err, "no warnings found") {
		t.Errorf("--check:\n%s%s", r.Out, r.Err)
	}
	bad := buildContext(t, map[string]string{"Dockerfile": "from busybox AS Upper\nENV KEY value\n"})
	if r := buildx(build("--check", bad)...); r.Exit == 0 || !strings.Contains(r.Out+r.Err, "LegacyKeyValueFormat") {
		t.Errorf("--check finds nothing:\n%s%s", r.Out, r.Err)
	}
	if r := must(build("--call=outline", dir)...); !strings.Contains(r.Out, "VERSION") || !strings.Contains(r.Out, "key") {
		t.Errorf("--call=outline:\n%s", r.Out)
	}
	if r := must(build("--call=targets", dir)...); !strings.Contains(r.Out, "build") || !strings.Contains(r.Out, "shop") {
		t.Errorf("--call=targets:\n%s", r.Out)
	}
	if r := buildx(build("--no-cache", dir)...); r.Exit == 0 || !strings.Contains(r.Err, "Dockerfile:6\n") || !strings.Contains(r.Err, "secret key: not found") {
		t.Errorf("without the secret:\n%s", r.Err)
	}

	write(t, dir, "docker-bake.hcl", fmt.Sprintf(`group "default" { targets = ["one", "two"] }
target "one" {
  args = { VERSION = "7" }
  secret = ["id=key,src=%[1]s/key"]
  tags = ["%[2]s/stock/bake:one"]
  output = ["type=registry"]
}
target "two" {
  inherits = ["one"]
  target = "build"
  tags = ["%[2]s/stock/bake:two"]
}
`, home, reg))
	must("bake", "--builder=e2e", "--progress=plain", "--allow=fs=*", "-f", filepath.Join(dir, "docker-bake.hcl"), "--set=*.context="+dir)
	checkShop(t, reg+"/stock/bake:one")
	for _, args := range [][]string{{"du", "--builder=e2e"}, {"history", "ls", "--builder=e2e"}, {"ls"}, {"prune", "--builder=e2e", "--force", "--all"}} {
		if r := must(args...); r.Out == "" {
			t.Errorf("buildx %s prints nothing", strings.Join(args, " "))
		}
	}
	must("rm", "e2e")
}
