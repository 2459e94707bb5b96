package dockerfile

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	"github.com/buildd/buildd/frontend/sbom"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options that clients send, by the names that BuildKit's frontend gave them.
const (
	optAddHosts       = "add-hosts"
	optCacheFrom      = "cache-from"    // images only; older clients
	optCacheImports   = "cache-imports" // JSON
	optCgroupParent   = "cgroup-parent"
	optCmdline        = "cmdline" // set by who has chosen the frontend already
	optContextKey     = "contextkey"
	optContextSubDir  = "contextsubdir"
	optDockerfileKey  = "dockerfilekey"
	optFilename       = "filename"
	optForceNetwork   = "force-network-mode"
	optFrontendCaps   = "frontend.caps"
	optHostname       = "hostname"
	optMultiPlatform  = "multi-platform"
	optNoCache        = "no-cache"
	optPlatform       = "platform"
	optRequestID      = "requestid"
	optResolveMode    = "image-resolve-mode"
	optShmSize        = "shm-size"
	optSource         = "source"
	optTarget         = "target"
	optUlimit         = "ulimit"
	prefixBuildArg    = "build-arg:"
	prefixContext     = "context:"
	prefixInputMeta   = "input-metadata:"
	prefixLabel       = "label:"
	prefixSessionID   = "local-sessionid:"
	prefixSharedKey   = "sharedkey:localdir:"
	argCacheNamespace = prefixBuildArg + "BUILDKIT_CACHE_MOUNT_NS"
	argCheck          = prefixBuildArg + "BUILDKIT_DOCKERFILE_CHECK"
	argGitAdvice      = prefixBuildArg + "BUILDKIT_GIT_ADVICE"
	argHostname       = prefixBuildArg + "BUILDKIT_SANDBOX_HOSTNAME"
	argKeepGitDir     = prefixBuildArg + "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
	argMultiPlatform  = prefixBuildArg + "BUILDKIT_MULTI_PLATFORM"
	argSourceDate     = prefixBuildArg + "SOURCE_DATE_EPOCH"
	argSyntax         = prefixBuildArg + "BUILDKIT_SYNTAX"
)

// options are what a request asks for, checked. Which context is meant is left to the code that opens it.
type options struct {
	target        string
	buildArgs     map[string]string
	labels        map[string]string
	platforms     []ocispecs.Platform // none: the daemon's own
	multiPlatform bool                // the result is an index
	noCache       noCache
	resolveMode   llb.ResolveMode
	check         *linter.Config // overrides what the Dockerfile says
	cacheImports  []gwclient.CacheOptionsEntry
	sbom          *sbom.Options
	keepGitDir    bool
	run           lower.RunOptions
}

// optionError names the option, what was wrong with it and what would be right.
func optionError(key, value, want string, err error) error {
	if err == nil {
		return fmt.Errorf("option %s: invalid value %q: want %s", key, value, want)
	}
	return fmt.Errorf("option %s: invalid value %q: want %s: %w", key, value, want, err)
}

// optionParser reads options one after the other and keeps the first error.
type optionParser struct {
	raw map[string]string
	err error
}

// parse calls f with the value of key, unless that is empty. An error of f says what is wrong, want what would be right.
func parse[T any](p *optionParser, key, want string, f func(string) (T, error)) T {
	var zero T
	value := p.raw[key]
	if p.err != nil || value == "" {
		return zero
	}
	v, err := f(value)
	if err != nil {
		p.err = optionError(key, value, want, err)
		return zero
	}
	return v
}

func (p *optionParser) bool(key string) bool {
	return parse(p, key, "true or false", func(v string) (bool, error) {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return false, errNoBool
		}
		return b, nil
	})
}

// first returns the first of keys that has a value, else the last.
func (p *optionParser) first(keys ...string) string {
	for _, k := range keys {
		if p.raw[k] != "" {
			return k
		}
	}
	return keys[len(keys)-1]
}

func parseOptions(raw map[string]string) (*options, error) {
	p := &optionParser{raw: raw}
	p.checkRemoved()
	o := &options{
		target:       raw[optTarget],
		buildArgs:    withPrefix(raw, prefixBuildArg),
		labels:       withPrefix(raw, prefixLabel),
		platforms:    parse(p, optPlatform, "OS/ARCH[/VARIANT], several with commas", parsePlatforms),
		noCache:      parseNoCache(raw),
		resolveMode:  parse(p, optResolveMode, "default, pull or local", parseResolveMode),
		check:        parse(p, argCheck, "error=true, skip=RULE,... or experimental=RULE,...; several with semicolons", linter.ParseLintOptions),
		cacheImports: p.cacheImports(),
		sbom:         p.sbom(),
		keepGitDir:   p.bool(argKeepGitDir),
		run: lower.RunOptions{
			Network:        parse(p, optForceNetwork, "sandbox, host or none", parseNetMode),
			Hostname:       raw[p.first(argHostname, optHostname)],
			ExtraHosts:     parse(p, optAddHosts, "HOST=IP, several with commas", parseExtraHosts),
			ShmSize:        parse(p, optShmSize, "a number of bytes", parseSize),
			Ulimits:        parse(p, optUlimit, "NAME=SOFT[:HARD], several with commas", parseUlimits),
			CgroupParent:   raw[optCgroupParent],
			Resources:      p.resources(),
			CacheNamespace: raw[argCacheNamespace],
			GitAdvice:      p.bool(argGitAdvice),
		},
	}
	o.multiPlatform = p.multiPlatform(len(o.platforms))
	return o, p.err
}

// checkRemoved refuses what BuildKit once took and what cannot be ignored without building something else.
func (p *optionParser) checkRemoved() {
	if p.raw["override-copy-image"] != "" {
		p.err = fmt.Errorf("option override-copy-image: no longer supported; COPY needs no image")
	}
	const fileOp = prefixBuildArg + "BUILDKIT_DISABLE_FILEOP"
	if p.bool(fileOp) {
		p.err = fmt.Errorf("option %s: no longer supported; COPY needs no image", fileOp)
	}
}

func (p *optionParser) multiPlatform(n int) bool {
	key := p.first(argMultiPlatform, optMultiPlatform)
	if p.raw[key] == "" {
		return n > 1
	}
	multi := p.bool(key)
	if p.err == nil && !multi && n > 1 {
		p.err = optionError(key, p.raw[key], fmt.Sprintf("true, as %d platforms are asked for", n), nil)
	}
	return multi
}

// withPrefix returns the options whose names begin with prefix, without it.
func withPrefix(raw map[string]string, prefix string) map[string]string {
	m := map[string]string{}
	for k, v := range raw {
		if name, ok := strings.CutPrefix(k, prefix); ok {
			m[name] = v
		}
	}
	return m
}

func parseResolveMode(v string) (llb.ResolveMode, error) {
	switch v {
	case pb.AttrImageResolveModeDefault:
		return llb.ResolveModeDefault, nil
	case pb.AttrImageResolveModeForcePull:
		return llb.ResolveModeForcePull, nil
	case pb.AttrImageResolveModePreferLocal:
		return llb.ResolveModePreferLocal, nil
	default:
		return 0, errUnknown
	}
}

func parseNetMode(v string) (pb.NetMode, error) {
	switch v {
	case "sandbox":
		return llb.NetModeSandbox, nil
	case "host":
		return llb.NetModeHost, nil
	case "none":
		return llb.NetModeNone, nil
	default:
		return 0, errUnknown
	}
}
