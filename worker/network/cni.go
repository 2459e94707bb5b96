package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	gocni "github.com/containerd/go-cni"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CNIConfig is what a [CNI] is made of. The first three are cniConfigPath,
// cniBinaryPath and cniPoolSize of buildkitd.toml.
type CNIConfig struct {
	// ConfigPath is a network configuration (.conf, .json) or a list of them
	// (.conflist).
	ConfigPath string
	// BinaryDir has the plugins.
	BinaryDir string
	// PoolSize is how many namespaces are kept ready; default 0.
	PoolSize int
	// Dir is a directory of the provider's own. It remembers there which
	// namespaces the plugins know, so that they hear of their end even if the
	// daemon was killed.
	Dir string
	// Log gets the warnings; default slog.Default().
	Log *slog.Logger
}

// CNI has namespaces set up by plugins of the Container Network Interface. It
// implements Provider.
type CNI struct {
	config  CNIConfig
	plugins gocni.CNI
	pool    *pool[*cniNS]
}

var _ Provider = (*CNI)(nil)

// cniTime bounds the plugins' work on one namespace.
const cniTime = time.Minute

// NewCNI loads the configuration and tries it once, so that what is wrong with it
// shows before the first build.
func NewCNI(ctx context.Context, c CNIConfig) (*CNI, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	for what, path := range map[string]string{"configuration": c.ConfigPath, "directory of plugins": c.BinaryDir} {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("CNI network: %s: %w", what, err)
		}
	}
	if err := os.MkdirAll(c.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("CNI network: %w", err)
	}
	opts := []gocni.Opt{
		gocni.WithPluginDir([]string{c.BinaryDir}),
		gocni.WithInterfacePrefix("eth"),
		gocni.WithMinNetworkCount(1),
	}
	if strings.HasSuffix(c.ConfigPath, ".conflist") {
		opts = append(opts, gocni.WithConfListFile(c.ConfigPath))
	} else {
		opts = append(opts, gocni.WithConfFile(c.ConfigPath))
	}
	plugins, err := gocni.New(opts...)
	if err != nil {
		return nil, fmt.Errorf("CNI network: load %s: %w", c.ConfigPath, err)
	}
	p := &CNI{config: c, plugins: plugins}
	p.cleanup(ctx)
	first, err := p.make(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("CNI network: try %s: %w", c.ConfigPath, err)
	}
	p.pool = newPool(max(c.PoolSize, 0), c.Log, func(ctx context.Context) (*cniNS, error) { return p.make(ctx, "") }, p.destroy)
	return p, p.pool.release(first, true)
}

// cniNS is a namespace that plugins have set up.
type cniNS struct {
	id   string
	ns   netNS
	opts []gocni.NamespaceOpts
}

func (p *CNI) note(id string) string { return filepath.Join(p.config.Dir, id) }

func (p *CNI) make(ctx context.Context, hostname string) (*cniNS, error) {
	ctx, cancel := context.WithTimeout(ctx, cniTime)
	defer cancel()
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	n := &cniNS{id: hex.EncodeToString(random[:])}
	if hostname != "" {
		// Kubernetes' argument, which plugins such as dnsname know; those that do
		// not know it are told to go on.
		n.opts = append(n.opts, gocni.WithArgs("K8S_POD_NAME", hostname), gocni.WithArgs("IgnoreUnknown", "1"))
	}
	var err error
	if n.ns, err = makeNetNS(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.note(n.id), nil, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("note CNI namespace: %w", err), n.ns.close())
	}
	if _, err := p.plugins.Setup(ctx, n.id, n.ns.path(), n.opts...); err != nil {
		return nil, errors.Join(fmt.Errorf("set CNI namespace up: %w", err), p.destroy(n))
	}
	return n, nil
}

func (p *CNI) destroy(n *cniNS) error {
	ctx, cancel := context.WithTimeout(context.Background(), cniTime)
	defer cancel()
	err := p.plugins.Remove(ctx, n.id, n.ns.path(), n.opts...)
	if err != nil {
		err = fmt.Errorf("take CNI namespace down: %w", err)
	} else {
		err = os.Remove(p.note(n.id))
	}
	return errors.Join(err, n.ns.close())
}

// cleanup tells the plugins of the end of namespaces that went with a killed
// daemon.
func (p *CNI) cleanup(ctx context.Context) {
	notes, err := os.ReadDir(p.config.Dir)
	if err != nil {
		p.config.Log.Warn("no look for old CNI namespaces", "error", err)
	}
	for _, e := range notes {
		ctx, cancel := context.WithTimeout(ctx, cniTime)
		// Without a path: the namespace is gone, plugins free what they have in
		// its name.
		err := p.plugins.Remove(ctx, e.Name(), "")
		cancel()
		if err == nil {
			err = os.Remove(p.note(e.Name()))
		}
		if err != nil {
			p.config.Log.Warn("an old CNI namespace is left behind", "id", e.Name(), "error", err)
		}
	}
}

// New implements Provider. A namespace with a name is made for its container.
func (p *CNI) New(ctx context.Context, hostname string) (Namespace, error) {
	if hostname != "" {
		n, err := p.make(ctx, hostname)
		if err != nil {
			return nil, err
		}
		return &cniLease{cniNS: n, p: p, changed: true}, nil
	}
	n, err := p.pool.get(ctx)
	if err != nil {
		return nil, err
	}
	return &cniLease{cniNS: n, p: p}, nil
}

// Close implements Provider.
func (p *CNI) Close() error { return p.pool.close() }

// cniLease is a namespace as one container has it.
type cniLease struct {
	*cniNS
	p       *CNI
	once    sync.Once
	changed bool
}

// Configure implements Namespace.
func (l *cniLease) Configure(s *specs.Spec) error {
	l.changed = l.changed || changes(s)
	setNamespace(s, l.ns.path())
	return nil
}

// Close implements Namespace.
func (l *cniLease) Close() (err error) {
	l.once.Do(func() { err = l.p.pool.release(l.cniNS, !l.changed) })
	return err
}
