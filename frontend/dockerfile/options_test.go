package dockerfile

import (
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/buildd/buildd/frontend/sbom"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		raw  map[string]string
		set  func(*options)
	}{
		{"none", nil, func(*options) {}},
		{"empty values", map[string]string{"platform": "", "ulimit": "", "shm-size": "", "multi-platform": ""}, func(*options) {}},
		{"target", map[string]string{"target": "b"}, func(o *options) { o.target = "b" }},
		{"args and labels", map[string]string{"build-arg:A": "1", "build-arg:B": "", "label:x.y": "z", "label:": "e"}, func(o *options) {
			o.buildArgs = map[string]string{"A": "1", "B": ""}
			o.labels = map[string]string{"x.y": "z", "": "e"}
		}},
		{"one platform", map[string]string{"platform": "arm64"}, func(o *options) {
			o.platforms = []ocispecs.Platform{{OS: "linux", Architecture: "arm64"}}
		}},
		{"platforms", map[string]string{"platform": "linux/arm64/v8,linux/amd64,linux/arm64"}, func(o *options) {
			o.platforms = []ocispecs.Platform{{OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "amd64"}}
			o.multiPlatform = true
		}},
		{"index of one", map[string]string{"multi-platform": "1"}, func(o *options) { o.multiPlatform = true }},
		{"index by argument", map[string]string{"multi-platform": "0", "build-arg:BUILDKIT_MULTI_PLATFORM": "true"}, func(o *options) {
			o.multiPlatform = true
			o.buildArgs = map[string]string{"BUILDKIT_MULTI_PLATFORM": "true"}
		}},
		{"no cache", map[string]string{"no-cache": ""}, func(o *options) { o.noCache = noCache{all: true} }},
		{"no cache of stages", map[string]string{"no-cache": "a,B"}, func(o *options) { o.noCache = noCache{stages: []string{"a", "B"}} }},
		{"resolve mode", map[string]string{"image-resolve-mode": "pull"}, func(o *options) { o.resolveMode = llb.ResolveModeForcePull }},
		{"prefer local", map[string]string{"image-resolve-mode": "local"}, func(o *options) { o.resolveMode = llb.ResolveModePreferLocal }},
		{"network", map[string]string{"force-network-mode": "host"}, func(o *options) { o.run.Network = pb.NetMode_HOST }},
		{"no network", map[string]string{"force-network-mode": "none"}, func(o *options) { o.run.Network = pb.NetMode_NONE }},
		{"hostname", map[string]string{"hostname": "h"}, func(o *options) { o.run.Hostname = "h" }},
		{"hostname by argument", map[string]string{"hostname": "h", "build-arg:BUILDKIT_SANDBOX_HOSTNAME": "g"}, func(o *options) {
			o.run.Hostname = "g"
			o.buildArgs = map[string]string{"BUILDKIT_SANDBOX_HOSTNAME": "g"}
		}},
		{"hosts", map[string]string{"add-hosts": `a=1.2.3.4,"B=::1"`}, func(o *options) {
			o.run.ExtraHosts = []llb.HostIP{{Host: "a", IP: net.ParseIP("1.2.3.4")}, {Host: "b", IP: net.IPv6loopback}}
		}},
		{"shm", map[string]string{"shm-size": "1048576"}, func(o *options) { o.run.ShmSize = 1 << 20 }},
		{"ulimits", map[string]string{"ulimit": "nofile=1024:2048,core=-1"}, func(o *options) {
			o.run.Ulimits = []*pb.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}}
		}},
		{"cgroup", map[string]string{"cgroup-parent": "/x"}, func(o *options) { o.run.CgroupParent = "/x" }},
		{"resources", map[string]string{
			"memory": "1", "memswap": "-1", "cpushares": "2", "cpuperiod": "3", "cpuquota": "4", "cpusetcpus": "0-2,4", "cpusetmems": "1",
		}, func(o *options) {
			o.run.Resources = &pb.LinuxResources{
				Memory: 1, MemorySwap: -1, CpuShares: 2, CpuPeriod: 3, CpuQuota: 4, CpusetCpus: "0-2,4", CpusetMems: "1",
			}
		}},
		{"caches", map[string]string{"cache-imports": `[{"Type":"local","Attrs":{"src":"x"}}]`, "cache-from": "a,b"}, func(o *options) {
			o.cacheImports = []gwclient.CacheOptionsEntry{
				{Type: "local", Attrs: map[string]string{"src": "x"}},
				{Type: "registry", Attrs: map[string]string{"ref": "a"}},
				{Type: "registry", Attrs: map[string]string{"ref": "b"}},
			}
		}},
		{"cache namespace", map[string]string{"build-arg:BUILDKIT_CACHE_MOUNT_NS": "n"}, func(o *options) {
			o.run.CacheNamespace = "n"
			o.buildArgs = map[string]string{"BUILDKIT_CACHE_MOUNT_NS": "n"}
		}},
		{"git", map[string]string{"build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1", "build-arg:BUILDKIT_GIT_ADVICE": "true"}, func(o *options) {
			o.keepGitDir, o.run.GitAdvice = true, true
			o.buildArgs = map[string]string{"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1", "BUILDKIT_GIT_ADVICE": "true"}
		}},
		{"sbom", map[string]string{"attest:sbom": "", "attest:provenance": "mode=max"}, func(o *options) {
			o.sbom = &sbom.Options{Scanner: "docker.io/docker/buildkit-syft-scanner:stable-1", Params: map[string]string{}}
		}},
		{"sbom by argument", map[string]string{"build-arg:BUILDKIT_ATTEST_SBOM": "generator=me/scan,A=b=c"}, func(o *options) {
			o.sbom = &sbom.Options{Scanner: "docker.io/me/scan:latest", Params: map[string]string{"A": "b=c"}}
			o.buildArgs = map[string]string{"BUILDKIT_ATTEST_SBOM": "generator=me/scan,A=b=c"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := &options{buildArgs: map[string]string{}, labels: map[string]string{}}
			c.set(want)
			got, err := parseOptions(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %s\nwant %s", mustJSON(got.run), mustJSON(want.run))
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// A bad value is told with the option's name, the value and what would be right.
func TestOptionErrors(t *testing.T) {
	for key, c := range map[string]struct{ value, want string }{
		"platform":                      {"linux//", "OS/ARCH[/VARIANT]"},
		"image-resolve-mode":            {"always", "default, pull or local"},
		"force-network-mode":            {"bridge", "sandbox, host or none"},
		"add-hosts":                     {"a=b", "HOST=IP"},
		"shm-size":                      {"64m", "a number of bytes"},
		"ulimit":                        {"nofiles=1", "NAME=SOFT[:HARD]"},
		"memory":                        {"0", "above 0"},
		"memswap":                       {"-2", "or -1 for no limit"},
		"cpushares":                     {"x", "above 0"},
		"cpuperiod":                     {"-1", "above 0"},
		"cpuquota":                      {"1.5", "above 0"},
		"cpusetcpus":                    {"3-1", "numbers and ranges"},
		"cpusetmems":                    {"0-99999999", "numbers and ranges"},
		"multi-platform":                {"maybe", "true or false"},
		"cache-imports":                 {"{}", "a JSON array"},
		"attest:sbom":                   {"generator=", "generator=IMAGE"},
		"attest:x":                      {"", "sbom or provenance"},
		"build-arg:BUILDKIT_ATTEST_Y":   {"", "sbom or provenance"},
		"build-arg:BUILDKIT_GIT_ADVICE": {"often", "true or false"},
		"build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": {"yes", "true or false"},
		"build-arg:BUILDKIT_DOCKERFILE_CHECK":     {"x=y", "error=true, skip=RULE"},
		"build-arg:BUILDKIT_MULTI_PLATFORM":       {"2", "true or false"},
		"build-arg:BUILDKIT_DISABLE_FILEOP":       {"true", "no longer supported"},
		"override-copy-image":                     {"x", "no longer supported"},
	} {
		_, err := parseOptions(map[string]string{key: c.value})
		if err == nil || !strings.Contains(err.Error(), "option "+key) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.value) && c.want != "no longer supported" {
			t.Errorf("%s=%s: error %q, want one with %q", key, c.value, err, c.want)
		}
	}
	_, err := parseOptions(map[string]string{"platform": "linux/amd64,linux/arm64", "multi-platform": "false"})
	if err == nil || !strings.Contains(err.Error(), "2 platforms") {
		t.Errorf("two platforms and no index: %v", err)
	}
}

func TestNoCache(t *testing.T) {
	some := noCache{stages: []string{"build"}}
	for _, c := range []struct {
		n     noCache
		stage string
		want  bool
	}{{noCache{}, "a", false}, {noCache{all: true}, "", true}, {some, "Build", true}, {some, "", false}} {
		if got := c.n.stage(c.stage); got != c.want {
			t.Errorf("%+v: stage %q: %v", c.n, c.stage, got)
		}
	}
}
