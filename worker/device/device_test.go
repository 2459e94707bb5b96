package device

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func manager(t *testing.T) *Manager {
	t.Helper()
	dir := t.TempDir()
	text := `cdiVersion: "0.6.0"
kind: "vendor.com/gadget"
annotations:
  org.mobyproject.buildkit.device.class: toys
devices:
- name: one
  containerEdits:
    env: ["ONE=1"]
- name: two
  annotations:
    org.mobyproject.buildkit.device.autoallow: "true"
  containerEdits:
    env: ["TWO=2"]
`
	if err := os.WriteFile(filepath.Join(dir, "gadget.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{SpecDirs: []string{dir}, AutoAllowed: []string{"other.com/x"}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFind(t *testing.T) {
	m := manager(t)
	for name, want := range map[string][]string{
		"vendor.com/gadget=two": {"vendor.com/gadget=two"},
		"vendor.com/gadget":     {"vendor.com/gadget=one"},
		"vendor.com/gadget=*":   {"vendor.com/gadget=one", "vendor.com/gadget=two"},
		"toys":                  {"vendor.com/gadget=one", "vendor.com/gadget=two"},
		"vendor.com/gadget=3":   nil,
		"nothing":               nil,
		"":                      nil,
	} {
		ds, err := m.Find(name)
		var got []string
		for _, d := range ds {
			got = append(got, d.Name)
			if d.AutoAllow != (d.Name == "vendor.com/gadget=two") {
				t.Errorf("%s: AutoAllow is %v", d.Name, d.AutoAllow)
			}
		}
		if !slices.Equal(got, want) || (want == nil) != errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := (*Manager)(nil).Find("vendor.com/gadget"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a worker without devices: %v", err)
	}
}

func TestInject(t *testing.T) {
	m := manager(t)
	ds, err := m.Find("vendor.com/gadget=*")
	if err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Process: &specs.Process{}}
	if err := m.Inject(spec, append(ds, ds...)...); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(spec.Process.Env, []string{"ONE=1", "TWO=2"}) {
		t.Errorf("environment is %q", spec.Process.Env)
	}
}
