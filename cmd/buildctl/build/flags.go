package build

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/pflag"
)

// flags are what the command line says, unread.
type flags struct {
	set *pflag.FlagSet

	// Both forms.
	allow, cacheFrom, cacheTo, importCache, exportCache, secrets, ssh, outputs, registryTLS, layouts, opts []string
	metadataFile, refFile, progress, sourcePolicy, trace, metrics                                          string
	noCache                                                                                                bool

	// docker's form.
	addHosts, annotations, attest, buildArgs, contexts, labels, noCacheFilter, platforms, tags, ulimits []string
	file, target, network, shmSize, cgroupParent, iidFile, provenance, sbom, call                       string
	memory, memorySwap, cpuShares, cpuPeriod, cpuQuota, cpusetCPUs, cpusetMems                          string
	check, load, push, pull, quiet                                                                      bool

	// BuildKit's form.
	frontend     string
	locals       []string
	proxyNetwork bool
}

// ofDocker are the flags that have no meaning without a context.
var ofDocker = []string{
	"add-host", "annotation", "attest", "build-arg", "build-context", "label", "no-cache-filter", "platform", "tag", "ulimit",
	"file", "target", "network", "shm-size", "cgroup-parent", "iidfile", "memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems", "provenance", "sbom", "call", "check", "load", "push", "pull",
}

// ofBuildKit are the flags that have no meaning with one.
var ofBuildKit = []string{"frontend", "local", "proxy-network"}

// withoutEffect are docker's flags for its old builder, which docker takes and
// ignores too.
var withoutEffect = []string{
	"builder", "compress", "cpu-rt-period", "cpu-rt-runtime", "disable-content-trust", "force-rm", "isolation", "rm", "security-opt", "squash",
}

func (f *flags) register(set *pflag.FlagSet) {
	f.set = set
	set.SortFlags = false
	f.registerDocker(set)
	f.registerBoth(set)
	set.StringVar(&f.frontend, "frontend", "", "BuildKit's form: `name` of the frontend, such as dockerfile.v0 or gateway.v0")
	set.StringArrayVar(&f.locals, "local", nil, "BuildKit's form: directory that the build may read: `NAME=DIR`")
	set.BoolVar(&f.proxyNetwork, "proxy-network", false, "BuildKit's form: run steps behind the daemon's proxy")

	for _, n := range withoutEffect {
		set.String(n, "", "accepted for docker's sake")
		set.Lookup(n).NoOptDefVal = "true"
		if slices.Contains([]string{"builder", "isolation", "security-opt", "cpu-rt-period", "cpu-rt-runtime"}, n) {
			set.Lookup(n).NoOptDefVal = ""
		}
		_ = set.MarkHidden(n) // it was registered a line above
	}
	_ = set.MarkHidden("debug-json-cache-metrics")
}

func (f *flags) registerDocker(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.tags, "tag", "t", nil, "`name` of the image: NAME[:TAG]")
	set.StringVarP(&f.file, "file", "f", "", "`path` of the Dockerfile, - for standard input (default CONTEXT/Dockerfile)")
	set.StringVar(&f.target, "target", "", "`stage` to build (default: the last)")
	set.StringArrayVar(&f.buildArgs, "build-arg", nil, "value of an ARG: `NAME=VALUE`, or NAME for the environment's value")
	set.StringArrayVar(&f.contexts, "build-context", nil, "more contexts: `NAME=SOURCE`, a directory, docker-image://NAME, oci-layout://DIR[:TAG], a git or HTTP URL")
	set.StringArrayVar(&f.platforms, "platform", nil, "`platform` to build for, such as linux/arm64, or several")
	set.BoolVar(&f.push, "push", false, "send the image to its registry")
	set.BoolVar(&f.load, "load", false, "put the image into the daemon's image store, beside other outputs")
	set.BoolVarP(&f.quiet, "quiet", "q", false, "print the image's digest and nothing else")
	set.BoolVar(&f.pull, "pull", false, "ask registries for newer base images")
	set.StringArrayVar(&f.noCacheFilter, "no-cache-filter", nil, "`stages` to build without the cache")
	set.StringArrayVar(&f.labels, "label", nil, "label of the image: `KEY=VALUE`")
	set.StringArrayVar(&f.annotations, "annotation", nil, "annotation of the image: `[LEVEL:]KEY=VALUE`, on its manifest or at the level index, manifest-descriptor or index-descriptor")
	set.StringArrayVar(&f.addHosts, "add-host", nil, "line of /etc/hosts in steps: `NAME:ADDRESS`")
	set.StringVar(&f.network, "network", "", "`network` of steps: default, none or host")
	set.StringVar(&f.shmSize, "shm-size", "", "`size` of /dev/shm in steps, such as 64m")
	set.StringArrayVar(&f.ulimits, "ulimit", nil, "limit of steps: `NAME=SOFT[:HARD]`")
	set.StringVar(&f.cgroupParent, "cgroup-parent", "", "`cgroup` that steps run below")
	set.StringVarP(&f.memory, "memory", "m", "", "`bytes` of memory that a step may use, such as 512m")
	set.StringVar(&f.memorySwap, "memory-swap", "", "`bytes` of memory and swap together, -1 for any")
	set.StringVarP(&f.cpuShares, "cpu-shares", "c", "", "a step's `weight` where processors are short")
	set.StringVar(&f.cpuPeriod, "cpu-period", "", "`microseconds` that --cpu-quota counts for")
	set.StringVar(&f.cpuQuota, "cpu-quota", "", "`microseconds` of processor time per period")
	set.StringVar(&f.cpusetCPUs, "cpuset-cpus", "", "`processors` for steps, such as 0-2,4")
	set.StringVar(&f.cpusetMems, "cpuset-mems", "", "memory `nodes` for steps, such as 0-1")
	set.StringVar(&f.iidFile, "iidfile", "", "`file` to write the image's digest to")
	set.StringArrayVar(&f.attest, "attest", nil, "attestation: `type=TYPE,...`, the type being provenance or sbom")
	set.StringVar(&f.provenance, "provenance", "", "provenance attestation: true, false, mode=min or `mode=max`")
	set.StringVar(&f.sbom, "sbom", "", "SBOM attestation: true, false or the scanner's `image`")
	set.StringVar(&f.call, "call", "build", "`method` of the frontend: build, check, outline or targets; with ,format=json as JSON")
	set.BoolVar(&f.check, "check", false, "the same as --call=check: lint the Dockerfile")
}

func (f *flags) registerBoth(set *pflag.FlagSet) {
	set.StringArrayVarP(&f.outputs, "output", "o", nil, "where the result goes: a `directory`, - for a tar on standard output, or type=image|registry|oci|docker|tar|local|cacheonly,KEY=VALUE,...")
	set.StringArrayVar(&f.secrets, "secret", nil, "`secret` for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE")
	set.StringArrayVar(&f.ssh, "ssh", nil, "`agent` for RUN --mount=type=ssh: default or ID=SOCKET or ID=KEY[,KEY]")
	set.StringArrayVar(&f.allow, "allow", nil, "`entitlement` to grant: network.host, security.insecure or device")
	set.BoolVar(&f.noCache, "no-cache", false, "run every step")
	set.StringArrayVar(&f.cacheFrom, "cache-from", nil, "`cache` to read: an image's name, or type=registry|local|gha|s3|azblob,KEY=VALUE,...")
	set.StringArrayVar(&f.cacheTo, "cache-to", nil, "`cache` to write: an image's name, or type=registry|inline|local|gha|s3|azblob,KEY=VALUE,...")
	set.StringArrayVar(&f.importCache, "import-cache", nil, "BuildKit's name for --cache-from `cache`")
	set.StringArrayVar(&f.exportCache, "export-cache", nil, "BuildKit's name for --cache-to `cache`")
	set.StringVar(&f.progress, "progress", "auto", "`how` progress is shown: auto, plain, tty, quiet or rawjson")
	set.StringVar(&f.metadataFile, "metadata-file", "", "`file` to write what is known about the result to, as JSON")
	set.StringVar(&f.refFile, "ref-file", "", "`file` to write the build's reference to")
	set.StringArrayVar(&f.opts, "opt", nil, "option of the frontend: `KEY=VALUE`")
	set.StringArrayVar(&f.layouts, "oci-layout", nil, "OCI layout that the build may read: `ID=DIR`")
	set.StringVar(&f.sourcePolicy, "source-policy-file", "", "`file` with a source policy, as JSON")
	set.StringArrayVar(&f.registryTLS, "registry-auth-tlscontext", nil, "`TLS` with registries' token servers: host=URL,ca=FILE,cert=FILE,key=FILE,insecure=BOOL")
	set.StringVar(&f.trace, "trace", "", "`file` to write all events to, as JSON")
	set.StringVar(&f.metrics, "debug-json-cache-metrics", "", "accepted for buildctl's sake")
}

// refuse returns an error if one of the named flags was given.
func (f *flags) refuse(names []string, why string) error {
	for _, n := range names {
		if f.set.Changed(n) {
			return fmt.Errorf("--%s: %s", n, why)
		}
	}
	return nil
}

// notes names flags that were given for nothing.
func (f *flags) notes() {
	for _, n := range withoutEffect {
		if f.set.Changed(n) {
			fmt.Fprintf(os.Stderr, "note: --%s has no effect\n", n)
		}
	}
}

var errNothing = errors.New(`nothing to build: want a CONTEXT such as ".", or --frontend with its options, or LLB on standard input (see buildctl build --help)`)
