package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// An engine is a builder that is measured.
type engine interface {
	name() string
	// fresh gives the engine an empty state; a daemon is started, or started
	// again. net is the network of RUN.
	fresh(ctx context.Context, net string) error
	build(ctx context.Context, r request) (outcome, error)
	memory() (memory, error)
	close() error
}

// request is one build, of the Dockerfile in dir unless another file is named.
type request struct {
	dir       string
	file      string
	args      map[string]string
	push      string // reference to push to
	archive   string // path of an OCI archive to write
	cacheTo   string // reference of a cache
	cacheFrom string
	parallel  int // stages at once, of an engine that must be told; RUN prints ranLine then
}

const ranLine = "this step ran"

// outcome tells what a build that succeeded did.
type outcome struct {
	ran    int // RUN steps that ran
	cached int // RUN steps that did not
	copied int // COPY steps that ran
	kept   int // COPY steps that did not
}

// add counts a step by its instruction.
func (o *outcome) add(step string, cached bool) {
	switch run := strings.HasPrefix(step, "RUN "); {
	case run && cached:
		o.cached++
	case run:
		o.ran++
	case !strings.HasPrefix(step, "COPY "):
	case cached:
		o.kept++
	default:
		o.copied++
	}
}

// memory is what a daemon uses, in bytes; of an engine without one, the most
// that a process of it used.
type memory struct {
	now, peak int64
}

func newEngine(o options, name string, b *bench) (engine, error) {
	debug := func(addr string) string {
		if o.profile == "" {
			return ""
		}
		return addr
	}
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	stock := filepath.Join(programs(), "stock", "buildctl")
	switch name {
	case "buildd", sameClient: // the latter with BuildKit's client
		program := filepath.Join(programs(), "buildd")
		if o.buildd != "" {
			program = o.buildd
		}
		client, port := filepath.Join(programs(), "buildctl"), "127.0.0.1:6060"
		if name == sameClient {
			client, port = stock, "127.0.0.1:6062"
		}
		return &daemon{label: name, program: program, client: client, dir: dir, config: b.config, debug: debug(port)}, nil
	case "buildkit":
		plugins, err := cniPlugins(dir)
		if err != nil {
			return nil, err
		}
		return &daemon{
			label: name, program: filepath.Join(programs(), "stock", "buildkitd"), client: stock, dir: dir, config: b.config,
			debug: debug("127.0.0.1:6061"), path: plugins,
			flags: []string{"--oci-worker-snapshotter=overlayfs", "--containerd-worker=false", "--otel-socket-path=" + filepath.Join(dir, "otel")},
		}, nil
	case "buildah":
		return &buildah{dir: dir}, nil
	default:
		return nil, fmt.Errorf("no engine %s", name)
	}
}

// cniPlugins makes a directory of Debian's CNI plugins under the names that
// BuildKit's bridge mode looks for.
func cniPlugins(dir string) (string, error) {
	dir = filepath.Join(dir, "cni")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, p := range []string{"bridge", "loopback", "host-local", "firewall"} {
		if err := os.Symlink("/usr/lib/cni/"+p, filepath.Join(dir, "buildkit-cni-"+p)); err != nil {
			return "", err
		}
	}
	return dir, nil
}
