package lower

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// resolve finds the bases of all stages that the target needs. Base images may bring triggers, and triggers may need further
// stages, so it goes on until nothing new turns up; every round makes at least one stage triggered, so it ends.
func (l *lowering) resolve(ctx context.Context, target *stage) ([]*stage, error) {
	for {
		needed := l.graph.needed(target)
		if err := l.resolveBases(ctx, needed); err != nil {
			return nil, err
		}
		more, err := l.addTriggers(needed)
		if err != nil {
			return nil, err
		}
		if !more {
			return needed, nil
		}
	}
}

// resolveBases asks for the bases of the stages that have not been asked for, all at a time. Of stages that are not needed only
// the form of the name is looked at.
func (l *lowering) resolveBases(ctx context.Context, needed []*stage) error {
	for _, s := range l.graph.stages {
		if s.base != nil || s.replaced != nil || s.def.BaseName == scratch {
			continue
		}
		if _, err := parseRef(s.def.BaseName); err != nil {
			return at(err, s.def.Location)
		}
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(32)
	for _, s := range needed {
		if s.base != nil || s.resolved {
			continue
		}
		s.resolved = true
		eg.Go(func() error {
			if err := l.resolveBase(ctx, s); err != nil {
				return at(err, s.def.Location)
			}
			s.ready = s.external() || s.replaced != nil
			return nil
		})
	}
	return eg.Wait()
}

func parseRef(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("failed to parse stage name %q: %w", name, err)
	}
	return reference.TagNameOnly(ref), nil
}

// resolveBase sets state, image and platform of a stage whose base is no stage. It runs beside others and must touch nothing but
// s.
func (l *lowering) resolveBase(ctx context.Context, s *stage) error {
	if s.replaced != nil {
		return l.loadReplaced(ctx, s)
	}
	if s.def.BaseName == scratch {
		p := l.o.target()
		s.platform, s.state, s.image = &p, llb.Scratch(), emptyImage(p)
		return nil
	}
	ref, err := parseRef(s.def.BaseName)
	if err != nil {
		return err
	}
	if s.platform == nil {
		p := l.o.target()
		s.platform = &p
		s.implicit = true
	}
	load, err := l.o.namedContext(ref.String(), NamedOptions{Platform: s.platform, Paths: s.used.localOptions})
	if err != nil {
		return err
	}
	if load != nil {
		return l.loadBase(ctx, s, load)
	}
	return l.resolveImage(ctx, s, ref)
}

// loadReplaced sets a stage whose name is that of a context.
func (l *lowering) loadReplaced(ctx context.Context, s *stage) error {
	st, img, err := s.replaced(ctx)
	if err != nil {
		return err
	}
	if st == nil {
		return fmt.Errorf("context %q was not found", s.def.Name)
	}
	s.state = *st
	if s.platform == nil {
		p := l.o.target()
		s.platform = &p
	}
	if img == nil {
		s.image = emptyImage(*s.platform)
		return nil
	}
	s.image = cloneImage(*img)
	s.image.Created = nil
	if img.OS != "" && img.Architecture != "" {
		p := clonePlatform(img.Platform)
		s.platform = &p
	}
	return nil
}

// loadBase sets a stage whose base is the name of a context.
func (l *lowering) loadBase(ctx context.Context, s *stage, load ContextLoader) error {
	st, img, err := load(ctx)
	if err != nil {
		return err
	}
	if st == nil {
		return fmt.Errorf("context %q was not found", s.def.BaseName)
	}
	if img == nil {
		s.image = emptyImage(*s.platform)
	} else {
		s.image = cloneImage(*img)
	}
	s.baseImage = cloneImagePtr(&s.image)
	s.image.Created = nil
	s.state = st.Platform(*s.platform)
	return nil
}

// resolveImage sets a stage whose base is an image.
func (l *lowering) resolveImage(ctx context.Context, s *stage, ref reference.Named) error {
	if l.o.MetaResolver == nil {
		return fmt.Errorf("%s: %w", s.def.BaseName, errNoResolver)
	}
	prefix := "[internal]"
	if l.o.MultiPlatform {
		prefix = "[" + platforms.FormatAll(*s.platform) + " internal]"
	}
	name, dgst, config, err := l.o.MetaResolver.ResolveImageConfig(ctx, ref.String(), sourceresolver.Opt{
		LogName: fmt.Sprintf("%s load metadata for %s", prefix, ref),
		ImageOpt: &sourceresolver.ResolveImageOpt{
			Platform:    s.platform,
			ResolveMode: l.o.ResolveMode.String(),
		},
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.def.BaseName, err)
		return suggested(err, s.def.BaseName, append(l.graph.labels(), commonImages()...))
	}
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &img); err != nil {
		return fmt.Errorf("parse config of image %s: %w", ref, err)
	}
	if name != ref.String() { // a policy sent us elsewhere
		if ref, err = reference.ParseNormalizedNamed(name); err != nil {
			return fmt.Errorf("parse ref %q that %s resolved to: %w", name, s.def.BaseName, err)
		}
	}
	if dgst != "" {
		if ref, err = reference.WithDigest(ref, dgst); err != nil {
			return fmt.Errorf("image %s: %w", ref, err)
		}
	}
	s.baseImage = cloneImagePtr(&img)
	img.Created = nil
	s.image = img
	if s.implicit {
		p := l.o.platformOf(&img, *s.platform)
		s.platform = &p
	}
	s.ref = ref.String()
	return nil
}

// fromImage makes the vertex of a base image. It is apart from resolveImage since warnings and numbers come in order.
func (l *lowering) fromImage(s *stage) {
	if isEmpty(&s.image) {
		s.state = llb.Scratch()
		return
	}
	s.countVertex()
	opts := []llb.ImageOption{
		describe(s.def.SourceCode),
		llb.Platform(*s.platform),
		l.o.ResolveMode,
		llb.WithCustomName(l.title(s, "FROM "+s.ref, newVars())),
	}
	if !s.external() {
		opts = append(opts, l.where(s.def.Location))
	}
	for _, lines := range s.named {
		opts = append(opts, l.where(lines))
	}
	s.state = llb.Image(s.ref, opts...)
	l.checkBasePlatform(s)
}

// isEmpty reports whether an image has no layer: there is nothing to fetch then.
func isEmpty(img *dockerspec.DockerOCIImage) bool {
	if len(img.RootFS.DiffIDs) > 0 {
		return false
	}
	for _, h := range img.History { // images of old registries come without diff IDs
		if !h.EmptyLayer {
			return false
		}
	}
	return true
}

// commonImages are names that a mistyped one may have meant.
func commonImages() []string {
	var out []string
	for _, n := range []string{"alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"} {
		out = append(out, n, "docker.io/library/"+n, n+":latest", "docker.io/library/"+n+":latest")
	}
	return out
}
