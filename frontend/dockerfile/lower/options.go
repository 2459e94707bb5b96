package lower

import (
	"errors"
	"maps"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options are what a build says about a Dockerfile from outside of it. The zero value of every field but MetaResolver is fine.
type Options struct {
	Target    string            // name or, as in COPY --from, number of the stage to build; "" is the last one
	BuildArgs map[string]string // --build-arg; never changed by this package
	Labels    map[string]string // --label

	// TargetPlatform is what TARGETPLATFORM says and the platform of a stage that names none. Nil means the first of
	// BuildPlatforms, but then a base image of another platform that the build can run is taken as it is.
	TargetPlatform *ocispecs.Platform
	BuildPlatforms []ocispecs.Platform // what RUN can run; the first is BUILDPLATFORM. Nil: TargetPlatform, else this machine
	MultiPlatform  bool                // the names of vertices begin with the platform

	Contexts     Contexts              // nil: a local source called "context", no named contexts
	MetaResolver llb.ImageMetaResolver // asked once for every base image that the target needs
	ResolveMode  llb.ResolveMode       // whether an image that is here already may be taken
	SourceMap    *llb.SourceMap        // the Dockerfile as clients shall print it; nil: no locations in the LLB
	Caps         *apicaps.CapSet       // what the LLB may use; nil: all that this package knows
	Check        *linter.Config        // overrides the directive "# check="
	Warn         linter.LintWarnFunc   // called for each broken rule; nil: nobody wants to know

	Run RunOptions

	allStages bool // lower what the target does not need, too
	maxOutput int  // how much the Dockerfile may become, in bytes; see there
}

// RunOptions hold for every RUN of the Dockerfile.
type RunOptions struct {
	Network        pb.NetMode
	Hostname       string
	ExtraHosts     []llb.HostIP
	ShmSize        int64 // bytes; 0 is the runtime's default
	Ulimits        []*pb.Ulimit
	CgroupParent   string
	Resources      *pb.LinuxResources
	Devices        []*pb.CDIDevice
	CacheNamespace string // set before the ID of every cache mount (BUILDKIT_CACHE_MOUNT_NS)
	GitAdvice      bool   // git's advice is shown when ADD fetches a repository
}

var errNoResolver = errors.New("no resolver for base images given")

// withDefaults returns options in which everything is set that the package reads, and which the caller does not share.
func (o Options) withDefaults() Options {
	o.BuildArgs = maps.Clone(o.BuildArgs)
	if o.BuildArgs == nil {
		o.BuildArgs = map[string]string{}
	}
	if len(o.BuildPlatforms) == 0 {
		if o.TargetPlatform != nil {
			o.BuildPlatforms = []ocispecs.Platform{*o.TargetPlatform}
		} else {
			o.BuildPlatforms = []ocispecs.Platform{platforms.DefaultSpec()}
		}
	}
	if o.maxOutput == 0 {
		o.maxOutput = maxOutput
	}
	if o.Contexts == nil {
		o.Contexts = localContext{}
	}
	if o.Caps == nil {
		all := pb.Caps.CapSet(pb.Caps.All())
		o.Caps = &all
	}
	return o
}

func (o *Options) has(c apicaps.CapID) bool { return o.Caps.Supports(c) == nil }
