package lower

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// testOptions are the options of a golden file: one a line, a name and what it is set to.
type testOptions struct {
	Options
	request string // outline, targets, lint, convertllb; "" lowers
}

func parseTestOptions(t *testing.T, files map[string]string) *testOptions {
	world := &fakeWorld{images: map[string]string{}, contexts: map[string]string{}}
	for name, data := range files {
		if ref, ok := strings.CutPrefix(name, "image/"); ok {
			world.images[ref] = data
		}
	}
	o := &testOptions{Options: Options{
		BuildArgs:      map[string]string{},
		Labels:         map[string]string{},
		BuildPlatforms: []ocispecs.Platform{amd64},
		Contexts:       world,
		MetaResolver:   world,
	}}
	for line := range strings.Lines(files["options"]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if err := o.set(world, name, value); err != nil {
			t.Fatalf("option %s: %v", line, err)
		}
	}
	return o
}

func (o *testOptions) set(world *fakeWorld, name, value string) (err error) {
	k, v, _ := strings.Cut(value, "=")
	switch name {
	case "":
	case "request":
		o.request = value
	case "target":
		o.Target = value
	case "arg":
		o.BuildArgs[k] = v
	case "label":
		o.Labels[k] = v
	case "platform":
		p, err := platforms.Parse(value)
		o.TargetPlatform = &p
		return err
	case "build-platforms":
		o.BuildPlatforms = nil
		for s := range strings.SplitSeq(value, ",") {
			p, err := platforms.Parse(s)
			if err != nil {
				return err
			}
			o.BuildPlatforms = append(o.BuildPlatforms, p)
		}
	case "multi":
		o.MultiPlatform = true
	case "no-caps":
		caps := pb.Caps.CapSet(nil)
		o.Caps = &caps
	case "resolve-mode":
		o.ResolveMode = llb.ResolveModeForcePull
	case "check":
		o.Check, err = linter.ParseLintOptions(value)
	case "ignore":
		world.ignored = append(world.ignored, value)
	case "no-cache":
		world.noCache = append(world.noCache, value)
	case "context":
		world.contexts[k] = v
	case "source-time":
		world.sourceTime, err = strconv.ParseInt(value, 10, 64)
	default:
		return o.setRun(name, value, k, v)
	}
	return err
}

func (o *testOptions) setRun(name, value, k, v string) (err error) {
	r := &o.Run
	switch name {
	case "network":
		r.Network = pb.NetMode(pb.NetMode_value[value])
	case "hostname":
		r.Hostname = value
	case "add-host":
		r.ExtraHosts = append(r.ExtraHosts, llb.HostIP{Host: k, IP: net.ParseIP(v)})
	case "shm-size":
		r.ShmSize, err = strconv.ParseInt(value, 10, 64)
	case "ulimit":
		n, _ := strconv.ParseInt(v, 10, 64)
		r.Ulimits = append(r.Ulimits, &pb.Ulimit{Name: k, Soft: n, Hard: n})
	case "cgroup-parent":
		r.CgroupParent = value
	case "memory":
		n, _ := strconv.ParseInt(value, 10, 64)
		r.Resources = &pb.LinuxResources{Memory: n}
	case "device":
		r.Devices = append(r.Devices, &pb.CDIDevice{Name: value})
	case "cache-ns":
		r.CacheNamespace = value
	case "git-advice":
		r.GitAdvice = true
	default:
		return errors.New("no such option")
	}
	return err
}

// fakeWorld has the images and contexts that a golden file says it has, and three images that everybody knows.
type fakeWorld struct {
	images     map[string]string // config by name
	contexts   map[string]string // "local", "scratch" or the name of an image
	ignored    []string
	noCache    []string
	sourceTime int64
}

func (w *fakeWorld) ResolveImageConfig(_ context.Context, ref string, o sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	short := strings.TrimPrefix(strings.TrimSuffix(ref, ":latest"), "docker.io/library/")
	config, ok := w.images[short]
	if !ok {
		switch short {
		case "busybox", "alpine", "debian":
			img := emptyImage(*o.ImageOpt.Platform)
			img.RootFS.DiffIDs = []digest.Digest{digest.FromString(short)}
			img.Config.WorkingDir = ""
			img.Config.Cmd = []string{"sh"}
			img.History = []ocispecs.History{{CreatedBy: "made " + short, Comment: "fake"}}
			raw, err := json.Marshal(img)
			return ref, digest.FromBytes([]byte(short)), raw, err
		}
		return "", "", nil, fmt.Errorf("%s: not found", ref)
	}
	return ref, digest.FromString(config), []byte(config), nil
}

func (w *fakeWorld) Main(_ context.Context, o ...llb.LocalOption) (*llb.State, error) {
	st := llb.Local("context", append([]llb.LocalOption{internalName("load build context")}, o...)...)
	return &st, nil
}

func (w *fakeWorld) Named(name string, n NamedOptions) (ContextLoader, error) {
	short := strings.TrimPrefix(strings.TrimSuffix(name, ":latest"), "docker.io/library/")
	kind, ok := w.contexts[short]
	if !ok {
		return nil, nil
	}
	return func(ctx context.Context) (*llb.State, *dockerspec.DockerOCIImage, error) {
		switch kind {
		case "scratch":
			st := llb.Scratch()
			return &st, nil, nil
		case "local":
			return w.localContext(short, n)
		case "git":
			st := llb.Git("https://example.com/"+short+".git", "")
			return &st, nil, nil
		case "broken":
			return nil, nil, errors.New("this context is broken")
		}
		p := n.Platform
		if p == nil {
			p = &amd64
		}
		_, _, raw, err := w.ResolveImageConfig(ctx, kind, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: p}})
		if err != nil {
			return nil, nil, err
		}
		var img dockerspec.DockerOCIImage
		if err := json.Unmarshal(raw, &img); err != nil {
			return nil, nil, err
		}
		st, err := llb.Image(kind, llb.Platform(*p), llb.WithCustomName("[context "+short+"] "+kind)).WithImageConfig(raw)
		return &st, &img, err
	}, nil
}

func (w *fakeWorld) localContext(name string, n NamedOptions) (*llb.State, *dockerspec.DockerOCIImage, error) {
	st := llb.NewState(&lateLocal{name: name, paths: n.Paths})
	return &st, nil, nil
}

// lateLocal is a local source that asks what is used of it when it is marshalled.
type lateLocal struct {
	llb.Output
	name  string
	paths func() []llb.LocalOption
	once  sync.Once
}

func (l *lateLocal) output() llb.Output {
	l.once.Do(func() {
		opts := []llb.LocalOption{llb.WithCustomName("[context " + l.name + "] load from client")}
		l.Output = llb.Local(l.name, append(opts, l.paths()...)...).Output()
	})
	return l.Output
}

func (l *lateLocal) ToInput(ctx context.Context, c *llb.Constraints) (*pb.Input, error) {
	return l.output().ToInput(ctx, c)
}

func (l *lateLocal) Vertex(ctx context.Context, c *llb.Constraints) llb.Vertex {
	return l.output().Vertex(ctx, c)
}

func (w *fakeWorld) Ignored(context.Context) ([]string, error) { return w.ignored, nil }

func (w *fakeWorld) NoCache(stage string) bool {
	for _, s := range w.noCache {
		if s == "" || s == stage {
			return true
		}
	}
	return false
}

func (w *fakeWorld) SourceTime(context.Context, llb.State, string) (*time.Time, error) {
	if w.sourceTime == 0 {
		return nil, nil
	}
	t := time.Unix(w.sourceTime, 0).UTC()
	return &t, nil
}
