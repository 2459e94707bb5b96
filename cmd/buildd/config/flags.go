package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/buildd/buildd/cache/gc"
	"github.com/buildd/buildd/worker/userns"
	"github.com/spf13/pflag"
)

// Flags are buildkitd's, and a few of our own. A flag that was not given leaves
// the file's value alone.
type Flags struct {
	set *pflag.FlagSet

	config, root, logFormat, logLevel, group, debugAddr string
	debug, trace                                        bool
	addrs, allow, cdiDirs                               []string
	tls                                                 TLS
	proxyNetwork, cdiDisabled                           bool
	otelSocket                                          string
	worker                                              Worker
	workerOn, workerGC                                  bool
	labels, platforms, gcKeep                           []string
	rootless                                            bool
	ignored                                             map[string]*string

	// Remote says which workers steps are sent to.
	Remote Remote
}

// Remote are workers on other machines.
type Remote struct {
	Addresses []string
	// TLS has the daemon's certificate for them, and the CA of theirs.
	TLS TLS
}

func (r Remote) check() error {
	if (r.TLS.Cert == "") != (r.TLS.Key == "") {
		return fmt.Errorf("--worker-tlscert %q with --worker-tlskey %q: want both or neither", r.TLS.Cert, r.TLS.Key)
	}
	return nil
}

// Register adds the flags to set.
func (f *Flags) Register(set *pflag.FlagSet) {
	f.set = set
	set.StringVar(&f.config, "config", "", "configuration `file` (default: "+strings.Join(defaultFiles(), ", then ")+")")
	set.BoolVar(&f.debug, "debug", false, "log what happens in detail")
	set.BoolVar(&f.trace, "trace", false, "log even more")
	set.StringVar(&f.root, "root", "", "state `directory` (default "+DefaultRoot()+")")
	set.StringSliceVar(&f.addrs, "addr", nil, "`address` to listen on: unix://PATH or tcp://HOST:PORT (default "+DefaultAddress()+")")
	set.StringVar(&f.logFormat, "log-format", "", "json or text")
	set.StringVar(&f.logLevel, "log-level", "", "error, warn, info, debug or trace")
	set.StringVar(&f.group, "group", "", "`group` (name or number) that may use the unix socket")
	set.StringVar(&f.debugAddr, "debugaddr", "", "`address` for profiles and metrics, such as 127.0.0.1:6060")
	set.StringVar(&f.tls.Cert, "tlscert", "", "certificate `file` of the daemon")
	set.StringVar(&f.tls.Key, "tlskey", "", "key `file` of the daemon")
	set.StringVar(&f.tls.CA, "tlscacert", "", "CA `file` that clients' certificates must be signed with")
	set.StringSliceVar(&f.allow, "allow-insecure-entitlement", nil, "`entitlement` that clients may ask for: network.host, security.insecure, device")
	set.BoolVar(&f.proxyNetwork, "proxy-network", false, "accepted for buildkitd's sake")
	set.StringVar(&f.otelSocket, "otel-socket-path", "", "`path` of the trace collector's socket")
	set.BoolVar(&f.cdiDisabled, "cdi-disabled", false, "refuse RUN --device")
	set.StringSliceVar(&f.cdiDirs, "cdi-spec-dir", nil, "`directory` with CDI device specifications")
	set.BoolVar(&f.rootless, "rootless", false, "run as an ordinary user, in a user namespace")
	set.StringSliceVar(&f.Remote.Addresses, "worker", nil, "`address` of a buildd worker that steps are sent to, such as tcp://10.0.0.2:8372")
	set.StringVar(&f.Remote.TLS.CA, "worker-tlscacert", "", "CA `file` that workers' certificates must be signed with")
	set.StringVar(&f.Remote.TLS.Cert, "worker-tlscert", "", "certificate `file` of the daemon for workers")
	set.StringVar(&f.Remote.TLS.Key, "worker-tlskey", "", "key `file` of the daemon for workers")
	f.registerWorker(set)
}

func (f *Flags) registerWorker(set *pflag.FlagSet) {
	w := &f.worker
	set.BoolVar(&f.workerOn, "oci-worker", true, "run steps on this machine")
	set.StringSliceVar(&f.labels, "oci-worker-labels", nil, "`KEY=VALUE` that the worker is known by")
	set.StringSliceVar(&f.platforms, "oci-worker-platform", nil, "`platform` that the worker runs (default: what the machine can)")
	set.StringVar(&w.Snapshotter, "oci-worker-snapshotter", "auto", "auto or overlayfs")
	set.StringVar(&w.NetworkMode, "oci-worker-net", "auto", "network of RUN: auto, bridge, cni, host or none")
	set.StringVar(&w.CNIConfigPath, "oci-cni-config-path", "/etc/buildkit/cni.json", "CNI configuration `file`")
	set.StringVar(&w.CNIBinaryPath, "oci-cni-binary-dir", "/opt/cni/bin", "`directory` with CNI plugins")
	set.IntVar(&w.CNIPoolSize, "oci-cni-pool-size", 0, "network namespaces to keep ready")
	set.StringVar(&w.Binary, "oci-worker-binary", "", "OCI runtime to run steps with: runc, crun, runsc (default: buildd's own)")
	set.StringVar(&w.ApparmorProfile, "oci-worker-apparmor-profile", "", "AppArmor `profile` of build containers")
	set.BoolVar(&w.SELinux, "oci-worker-selinux", false, "accepted for buildkitd's sake")
	set.IntVar(&w.MaxParallelism, "oci-max-parallelism", 0, "steps that run at once (default: no bound)")
	set.BoolVar(&w.NoProcessSandbox, "oci-worker-no-process-sandbox", false, "let RUN share the daemon's process namespace")
	set.BoolVar(&f.workerGC, "oci-worker-gc", true, "collect garbage")
	set.StringSliceVar(&f.gcKeep, "oci-worker-gc-keepstorage", nil, "disk space to keep: `MB` or a size such as 10GB")

	f.ignored = map[string]*string{}
	for _, n := range []string{"oci-worker-rootless", "oci-worker-proxy-snapshotter-path", "containerd-worker", "containerd-worker-addr", "save-cache-debug"} {
		f.ignored[n] = new(string)
		set.StringVar(f.ignored[n], n, "", "accepted for buildkitd's sake")
		set.Lookup(n).NoOptDefVal = "true"
		_ = set.MarkHidden(n) // it was registered a line above
	}
}

// DefaultRoot is where state lies if nothing else is said.
func DefaultRoot() string {
	if userns.UID() == 0 {
		return "/var/lib/buildd"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "buildd")
	}
	return filepath.Join(os.Getenv("HOME"), ".local/share/buildd")
}

// DefaultAddress is where the daemon listens if nothing else is said. Under the
// name of buildkitd that is where BuildKit's clients look.
func DefaultAddress() string {
	asBuildkitd := filepath.Base(os.Args[0]) == "buildkitd"
	if userns.UID() != 0 {
		d := os.Getenv("XDG_RUNTIME_DIR")
		if d != "" && asBuildkitd {
			return "unix://" + filepath.Join(d, "buildkit/buildkitd.sock")
		}
		if d != "" {
			return "unix://" + filepath.Join(d, "buildd/buildd.sock")
		}
		return "unix://" + filepath.Join(os.TempDir(), fmt.Sprintf("buildd-%d/buildd.sock", userns.UID()))
	}
	if asBuildkitd {
		return "unix:///run/buildkit/buildkitd.sock"
	}
	return "unix:///run/buildd/buildd.sock"
}

func defaultFiles() []string {
	dirs := []string{"/etc/buildd", "/etc/buildkit"}
	if userns.UID() != 0 {
		base := os.Getenv("XDG_CONFIG_HOME")
		if base == "" {
			base = filepath.Join(os.Getenv("HOME"), ".config")
		}
		dirs = []string{filepath.Join(base, "buildd"), filepath.Join(base, "buildkit")}
	}
	for i, d := range dirs {
		dirs[i] = filepath.Join(d, "buildkitd.toml")
	}
	return dirs
}

// Config reads the configuration file and puts the flags on top.
func (f *Flags) Config() (Config, []string, error) {
	path, must := f.config, true
	if path == "" {
		path = os.Getenv("BUILDKITD_CONFIG")
	}
	if path == "" {
		must = false
		for _, path = range defaultFiles() {
			if _, err := os.Stat(path); err == nil {
				break
			}
		}
	}
	c, warnings, err := Load(path, must)
	if err != nil {
		return c, warnings, err
	}
	if err := f.apply(&c); err != nil {
		return c, warnings, err
	}
	if err := f.Remote.check(); err != nil {
		return c, warnings, err
	}
	return c, warnings, c.finish()
}

func (f *Flags) apply(c *Config) error {
	var err error
	over := map[string]func(){
		"debug": func() { c.Debug = f.debug }, "trace": func() { c.Trace = f.trace },
		"root": func() { c.Root = f.root }, "addr": func() { c.GRPC.Address = f.addrs },
		"log-format": func() { c.Log.Format = f.logFormat }, "log-level": func() { c.Log.Level = f.logLevel },
		"debugaddr": func() { c.GRPC.DebugAddress = f.debugAddr },
		"tlscert":   func() { c.GRPC.TLS.Cert = f.tls.Cert }, "tlskey": func() { c.GRPC.TLS.Key = f.tls.Key },
		"tlscacert":                  func() { c.GRPC.TLS.CA = f.tls.CA },
		"allow-insecure-entitlement": func() { c.Entitlements = f.allow },
		"otel-socket-path":           func() { c.OTEL.SocketPath = f.otelSocket },
		"cdi-disabled":               func() { c.CDI.Disabled = &f.cdiDisabled },
		"cdi-spec-dir":               func() { c.CDI.SpecDirs = f.cdiDirs },
		"group":                      func() { err = c.setGroup(f.group) },
		"rootless":                   func() { c.Workers.OCI.Rootless = f.rootless },
	}
	w, fw := &c.Workers.OCI, &f.worker
	workers := map[string]func(){
		"oci-worker": func() { w.Enabled = &f.workerOn }, "oci-worker-gc": func() { w.GC = &f.workerGC },
		"oci-worker-labels":           func() { err = setLabels(w, f.labels) },
		"oci-worker-platform":         func() { w.Platforms = f.platforms },
		"oci-worker-snapshotter":      func() { w.Snapshotter = fw.Snapshotter },
		"oci-worker-net":              func() { w.NetworkMode = fw.NetworkMode },
		"oci-cni-config-path":         func() { w.CNIConfigPath = fw.CNIConfigPath },
		"oci-cni-binary-dir":          func() { w.CNIBinaryPath = fw.CNIBinaryPath },
		"oci-cni-pool-size":           func() { w.CNIPoolSize = fw.CNIPoolSize },
		"oci-worker-binary":           func() { w.Binary = fw.Binary },
		"oci-worker-apparmor-profile": func() { w.ApparmorProfile = fw.ApparmorProfile },
		"oci-max-parallelism":         func() { w.MaxParallelism = fw.MaxParallelism },
		"oci-worker-gc-keepstorage":   func() { err = setKeep(w, f.gcKeep) },
	}
	for _, m := range []map[string]func(){over, workers} {
		for name, set := range m {
			if f.set.Changed(name) {
				if set(); err != nil {
					return fmt.Errorf("--%s: %w", name, err)
				}
			}
		}
	}
	return nil
}

func setLabels(w *Worker, labels []string) error {
	for _, l := range labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return fmt.Errorf("label %q: want KEY=VALUE", l)
		}
		if w.Labels == nil {
			w.Labels = map[string]string{}
		}
		w.Labels[k] = v
	}
	return nil
}

// setKeep reads buildkitd's --oci-worker-gc-keepstorage: reserved, maximum and
// minimum free space, numbers being megabytes.
func setKeep(w *Worker, parts []string) error {
	for i, to := range []*gc.Space{&w.ReservedSpace, &w.MinFreeSpace, &w.MaxUsedSpace} {
		if i >= len(parts) {
			break
		}
		text := parts[i]
		if _, err := strconv.Atoi(text); err == nil {
			text += "MB"
		}
		if err := to.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	return nil
}
