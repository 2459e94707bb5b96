package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "buildkitd.toml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLoad(t *testing.T) {
	c, warnings, err := Load(write(t, `
root = "/var/lib/x"
insecure-entitlements = ["network.host"]
colour = "blue"
[worker.oci]
  gc = true
  reservedSpace = "30%"
  maxUsedSpace = 512000000
  [[worker.oci.gcpolicy]]
    keepDuration = 172800
    reservedSpace = "512MB"
  [[worker.oci.gcpolicy]]
    keepDuration = "48h"
    all = true
[registry."docker.io"]
  mirrors = ["localhost:5000"]
  http = true
`), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], `:4: key "colour"`) {
		t.Errorf("warnings: %q", warnings)
	}
	w := c.Workers.OCI
	if w.ReservedSpace.Of(1000) != 300 || w.MaxUsedSpace.Of(1000) != 512000000 {
		t.Errorf("disk space: %+v", w)
	}
	for i, p := range w.GCPolicy {
		if p.KeepDuration.Duration != 48*time.Hour {
			t.Errorf("policy %d: keepDuration is %s", i, p.KeepDuration)
		}
	}
	if w.GCPolicy[0].ReservedSpace.Bytes != 512<<20 {
		t.Errorf("reservedSpace is %d", w.GCPolicy[0].ReservedSpace.Bytes)
	}
	if m := c.Registries["docker.io"].Mirrors; len(m) != 1 || m[0] != "localhost:5000" {
		t.Errorf("mirrors: %q", m)
	}
}

func TestLoadRefusesWrongValues(t *testing.T) {
	for text, want := range map[string]string{
		"root = 7":                                    "root",
		"[worker.oci]\nreservedSpace = \"lots\"":      "lots",
		"[worker.oci]\nmaxUsedSpace = \"110%\"":       "110%",
		"[[worker.oci.gcpolicy]]\nkeepDuration=\"x\"": "want seconds",
		"root = ": "1:",
	} {
		_, _, err := Load(write(t, text), true)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one with %q", text, err, want)
		}
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "none"), true); err == nil {
		t.Error("a file that must exist may be missing")
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "none"), false); err != nil {
		t.Error(err)
	}
}
