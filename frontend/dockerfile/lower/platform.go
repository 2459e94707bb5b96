package lower

import (
	"fmt"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// target is the platform of a stage that names none, unless its base image knows better: see Options.TargetPlatform.
func (o *Options) target() ocispecs.Platform {
	if o.TargetPlatform != nil {
		return *o.TargetPlatform
	}
	return o.BuildPlatforms[0]
}

// platformOf returns the platform that a base image is used as: the wanted one, or that of the image where nobody asked for a
// platform and the build can run the image as it is.
func (o *Options) platformOf(img *dockerspec.DockerOCIImage, wanted ocispecs.Platform) ocispecs.Platform {
	if o.TargetPlatform != nil || (wanted.OS == img.OS && wanted.Architecture == img.Architecture) {
		return wanted
	}
	for _, p := range o.BuildPlatforms {
		if p.OS == img.OS && p.Architecture == img.Architecture {
			return p
		}
	}
	return wanted
}

// expandPlatform reads the flag --platform of a FROM instruction.
func (l *lowering) expandPlatform(s *stage, used map[string]struct{}) error {
	r, err := l.expand.word(s.def.Platform, l.args)
	if err != nil {
		return fmt.Errorf("process arguments for platform %s: %w", s.def.Platform, err)
	}
	l.checkFromArgs(s, r)
	l.checkPlatformFlag(s, r)
	if r.Result == "" {
		err := fmt.Errorf("empty platform value from expression %s", s.def.Platform)
		return suggestedAny(err, r.Unmatched, l.args.Keys())
	}
	p, err := platforms.Parse(r.Result)
	if err != nil {
		err = fmt.Errorf("failed to parse platform %s: %w", s.def.Platform, err)
		return suggestedAny(err, r.Unmatched, l.args.Keys())
	}
	for k := range r.Matched {
		used[k] = struct{}{}
	}
	s.platform = &p
	return nil
}

// crossSuffix tells in the name of a vertex that a stage which runs on one platform builds for another ("->arm64").
func crossSuffix(runs ocispecs.Platform, env shell.EnvGetter) string {
	t := targetOf(env)
	if t == nil {
		return ""
	}
	if t.OS == "" {
		t.OS = runs.OS
	}
	if t.Architecture == "" {
		t.Architecture = runs.Architecture
	}
	p := platforms.Normalize(*t)
	switch {
	case p.OS != runs.OS:
		return "->" + platforms.FormatAll(p)
	case p.Architecture != runs.Architecture:
		if p.Variant != "" {
			return "->" + p.Architecture + "/" + p.Variant
		}
		return "->" + p.Architecture
	default:
		return ""
	}
}

// targetOf returns the platform that a stage declares an interest in, by an ARG for TARGETPLATFORM or one of its parts.
func targetOf(env shell.EnvGetter) *ocispecs.Platform {
	if v, ok := env.Get("TARGETPLATFORM"); ok {
		if p, err := platforms.Parse(v); err == nil {
			return &p
		}
	}
	var p ocispecs.Platform
	var any bool
	for key, field := range map[string]*string{"TARGETOS": &p.OS, "TARGETARCH": &p.Architecture, "TARGETVARIANT": &p.Variant} {
		if v, ok := env.Get(key); ok {
			*field, any = v, true
		}
	}
	if !any {
		return nil
	}
	return &p
}

// setTarget writes the platform that was asked for into the config of the result, as far as it is more exact.
func (o *Options) setTarget(img *dockerspec.DockerOCIImage) {
	if t := o.TargetPlatform; t != nil {
		same := t.OS == img.OS && t.Architecture == img.Architecture
		img.OS, img.Architecture = t.OS, t.Architecture
		if t.Variant != "" || !same {
			img.Variant = t.Variant
		}
		if t.OSVersion != "" || !same {
			img.OSVersion = t.OSVersion
		}
		if t.OSFeatures != nil {
			img.OSFeatures = clonePlatform(*t).OSFeatures
		}
	}
	img.Platform = platforms.Normalize(img.Platform)
}
