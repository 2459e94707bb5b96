package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/worker/registry"
	"github.com/pelletier/go-toml/v2"
)

// Config is what buildkitd.toml says.
type Config struct {
	Debug        bool     `toml:"debug"`
	Trace        bool     `toml:"trace"`
	Root         string   `toml:"root"`
	Entitlements []string `toml:"insecure-entitlements"`
	ProxyNetwork bool     `toml:"proxyNetwork"`
	Log          struct {
		Format string `toml:"format"`
		Level  string `toml:"level"`
	} `toml:"log"`
	GRPC struct {
		Address      []string `toml:"address"`
		DebugAddress string   `toml:"debugAddress"`
		UID          *int     `toml:"uid"`
		GID          *int     `toml:"gid"`
		TLS          TLS      `toml:"tls"`
	} `toml:"grpc"`
	OTEL struct {
		SocketPath string `toml:"socketPath"`
	} `toml:"otel"`
	CDI struct {
		Disabled    *bool    `toml:"disabled"`
		SpecDirs    []string `toml:"specDirs"`
		AutoAllowed []string `toml:"autoAllowed"`
	} `toml:"cdi"`
	Workers struct {
		OCI        Worker         `toml:"oci"`
		Containerd map[string]any `toml:"containerd"`
	} `toml:"worker"`
	Registries map[string]registry.Config `toml:"registry"`
	DNS        struct {
		Nameservers   []string `toml:"nameservers"`
		Options       []string `toml:"options"`
		SearchDomains []string `toml:"searchDomains"`
	} `toml:"dns"`
	History struct {
		MaxAge     Duration `toml:"maxAge"`
		MaxEntries *int64   `toml:"maxEntries"`
	} `toml:"history"`
	Frontends struct {
		Dockerfile struct {
			Enabled *bool `toml:"enabled"`
		} `toml:"dockerfile.v0"`
		Gateway struct {
			Enabled             *bool    `toml:"enabled"`
			AllowedRepositories []string `toml:"allowedRepositories"`
		} `toml:"gateway.v0"`
	} `toml:"frontend"`
	System struct {
		PlatformsCacheMaxAge   *Duration `toml:"platformsCacheMaxAge"`
		MaxRegistryConcurrency *int      `toml:"maxRegistryConcurrency"`
		SessionAuthTimeout     *Duration `toml:"sessionAuthTimeout"`
	} `toml:"system"`
	ProvenanceEnvDir string         `toml:"provenanceEnvDir"`
	Cache            map[string]any `toml:"cache"`
	Compaction       map[string]any `toml:"compaction"`
}

// TLS names PEM files.
type TLS struct {
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	CA   string `toml:"ca"`
}

// Worker says how steps run.
type Worker struct {
	Enabled             *bool             `toml:"enabled"`
	Labels              map[string]string `toml:"labels"`
	Platforms           []string          `toml:"platforms"`
	Snapshotter         string            `toml:"snapshotter"`
	Rootless            bool              `toml:"rootless"`
	NoProcessSandbox    bool              `toml:"noProcessSandbox"`
	GC                  *bool             `toml:"gc"`
	GCKeepStorage       gc.Space          `toml:"gckeepstorage"`
	ReservedSpace       gc.Space          `toml:"reservedSpace"`
	MaxUsedSpace        gc.Space          `toml:"maxUsedSpace"`
	MinFreeSpace        gc.Space          `toml:"minFreeSpace"`
	GCPolicy            []GCPolicy        `toml:"gcpolicy"`
	NetworkMode         string            `toml:"networkMode"`
	CNIConfigPath       string            `toml:"cniConfigPath"`
	CNIBinaryPath       string            `toml:"cniBinaryPath"`
	CNIPoolSize         int               `toml:"cniPoolSize"`
	BridgeName          string            `toml:"bridgeName"`
	BridgeSubnet        string            `toml:"bridgeSubnet"`
	Binary              string            `toml:"binary"`
	DefaultCgroupParent string            `toml:"defaultCgroupParent"`
	ApparmorProfile     string            `toml:"apparmor-profile"`
	SELinux             bool              `toml:"selinux"`
	MaxParallelism      int               `toml:"max-parallelism"`
}

// GCPolicy is one rule of what to evict.
type GCPolicy struct {
	All           bool     `toml:"all"`
	Filters       []string `toml:"filters"`
	KeepDuration  Duration `toml:"keepDuration"`
	KeepBytes     gc.Space `toml:"keepBytes"`
	ReservedSpace gc.Space `toml:"reservedSpace"`
	MaxUsedSpace  gc.Space `toml:"maxUsedSpace"`
	MinFreeSpace  gc.Space `toml:"minFreeSpace"`
}

// Duration is a number of seconds or a Go duration such as "48h".
type Duration struct{ time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		d.Duration = time.Duration(n) * time.Second
		return nil
	}
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q: want seconds, or a number with a unit such as 48h", b)
	}
	d.Duration = v
	return nil
}

// Load reads a configuration file. Keys that buildd does not know are returned
// as warnings: a file made for another version still starts the daemon. A file
// that does not exist is an error only if it must.
func Load(path string, must bool) (c Config, warnings []string, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return c, nil, nil
	}
	if err != nil {
		return c, nil, fmt.Errorf("read configuration: %w", err)
	}
	if err := toml.Unmarshal(b, &c); err != nil {
		if d, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, col := d.Position()
			return c, nil, fmt.Errorf("%s:%d:%d: key %s: %w", path, row, col, strings.Join(d.Key(), "."), err)
		}
		return c, nil, fmt.Errorf("%s: %w", path, err)
	}
	var known Config
	err = toml.NewDecoder(strings.NewReader(string(b))).DisallowUnknownFields().Decode(&known)
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		for _, e := range missing.Errors {
			row, _ := e.Position()
			warnings = append(warnings, fmt.Sprintf("%s:%d: key %q is not known to buildd and has no effect", path, row, strings.Join(e.Key(), ".")))
		}
	}
	if len(c.Workers.Containerd) > 0 {
		if on, _ := c.Workers.Containerd["enabled"].(bool); on {
			warnings = append(warnings, path+": [worker.containerd] has no effect: buildd runs steps itself")
		}
	}
	return c, warnings, nil
}
