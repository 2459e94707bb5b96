package config

import (
	"fmt"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// finish fills in defaults and refuses values that cannot work.
func (c *Config) finish() error {
	if c.Root == "" {
		c.Root = DefaultRoot()
	}
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return fmt.Errorf("root %q: %w", c.Root, err)
	}
	c.Root = root
	if len(c.GRPC.Address) == 0 {
		c.GRPC.Address = []string{DefaultAddress()}
	}
	if c.Log.Level == "" {
		c.Log.Level = "info"
	}
	if c.Debug || c.Trace {
		c.Log.Level = "debug"
	}
	if c.Log.Format == "" {
		c.Log.Format = "text"
	}
	w := &c.Workers.OCI
	if w.NetworkMode == "" {
		w.NetworkMode = "auto"
	}
	if w.CNIConfigPath == "" {
		w.CNIConfigPath = "/etc/buildkit/cni.json"
	}
	if w.CNIBinaryPath == "" {
		w.CNIBinaryPath = "/opt/cni/bin"
	}
	if len(c.CDI.SpecDirs) == 0 {
		c.CDI.SpecDirs = []string{"/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"}
	}
	if c.ProvenanceEnvDir == "" {
		c.ProvenanceEnvDir = "/etc/buildkit/provenance.d"
	}
	return c.check()
}

func (c *Config) check() error {
	if err := oneOf("log format", c.Log.Format, "text", "json"); err != nil {
		return err
	}
	if err := oneOf("log level", c.Log.Level, "error", "warn", "info", "debug", "trace"); err != nil {
		return err
	}
	w := c.Workers.OCI
	if err := oneOf("network mode", w.NetworkMode, "auto", "bridge", "cni", "host", "none"); err != nil {
		return err
	}
	if err := oneOf("snapshotter", w.Snapshotter, "", "auto", "overlayfs"); err != nil {
		return err
	}
	for _, e := range c.Entitlements {
		if err := oneOf("entitlement", e, "network.host", "security.insecure", "device"); err != nil {
			return err
		}
	}
	if w.MaxParallelism < 0 {
		return fmt.Errorf("max-parallelism %d: want a positive number, or 0 for no bound", w.MaxParallelism)
	}
	t := c.GRPC.TLS
	if (t.Cert == "") != (t.Key == "") {
		return fmt.Errorf("TLS certificate %q with key %q: want both or neither", t.Cert, t.Key)
	}
	if t.CA != "" && t.Cert == "" {
		return fmt.Errorf("TLS CA %q without a certificate: set the certificate and key too", t.CA)
	}
	return nil
}

func oneOf(what, v string, want ...string) error {
	if slices.Contains(want, v) {
		return nil
	}
	return fmt.Errorf("%s %q: want one of %s", what, v, strings.Trim(strings.Join(want, ", "), ", "))
}

// setGroup sets the group of the unix socket from a name or a number.
func (c *Config) setGroup(g string) error {
	gid, err := strconv.Atoi(g)
	if err != nil {
		grp, err := user.LookupGroup(g)
		if err != nil {
			return fmt.Errorf("group %q: want the name or number of a group: %w", g, err)
		}
		if gid, err = strconv.Atoi(grp.Gid); err != nil {
			return fmt.Errorf("group %q has the number %q: %w", g, grp.Gid, err)
		}
	}
	c.GRPC.GID = &gid
	return nil
}
