package device

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// Annotations of a device that BuildKit gives a meaning to.
const (
	annotationClass     = "org.mobyproject.buildkit.device.class"
	annotationAutoAllow = "org.mobyproject.buildkit.device.autoallow"
)

// ErrNotFound is returned, wrapped, for a name that no device has.
var ErrNotFound = errors.New("device not found")

// Config says where devices are described.
type Config struct {
	// SpecDirs hold CDI specifications, later ones counting more.
	SpecDirs []string
	// AutoAllowed are device names and kinds that every build may use.
	AutoAllowed []string
}

// Device is one device of the host.
type Device struct {
	// Name is VENDOR/CLASS=NAME.
	Name string
	// AutoAllow says that a build needs no entitlement for it.
	AutoAllow   bool
	Annotations map[string]string
}

// Manager knows the host's devices. A nil Manager knows none.
type Manager struct {
	c     Config
	cache *cdi.Cache
}

// New reads the specifications. They are read again when they change.
func New(c Config) (*Manager, error) {
	cache, err := cdi.NewCache(cdi.WithSpecDirs(c.SpecDirs...))
	if err != nil {
		return nil, fmt.Errorf("read CDI specifications in %s: %w", strings.Join(c.SpecDirs, ", "), err)
	}
	return &Manager{c: c, cache: cache}, nil
}

// List returns all devices.
func (m *Manager) List() []Device {
	if m == nil {
		return nil
	}
	var out []Device
	for _, name := range m.cache.ListDevices() {
		out = append(out, m.device(name))
	}
	return out
}

func (m *Manager) device(name string) Device {
	d := Device{Name: name}
	if dev := m.cache.GetDevice(name); dev != nil {
		d.Annotations = map[string]string{}
		for k, v := range dev.GetSpec().Annotations {
			d.Annotations[k] = v
		}
		for k, v := range dev.Annotations {
			d.Annotations[k] = v
		}
	}
	kind, _, _ := strings.Cut(name, "=")
	auto, _ := strconv.ParseBool(d.Annotations[annotationAutoAllow]) // anything else is no
	d.AutoAllow = auto || slices.Contains(m.c.AutoAllowed, name) || slices.Contains(m.c.AutoAllowed, kind)
	return d
}

// Find returns the devices that a name stands for: one by its full name, the
// first of a kind (VENDOR/CLASS), all of a kind (VENDOR/CLASS=*), or all that
// are annotated with the name as their class.
func (m *Manager) Find(name string) ([]Device, error) {
	kind, one, _ := strings.Cut(name, "=")
	vendor, _ := parser.ParseQualifier(kind)
	var out []Device
	for _, d := range m.List() {
		inKind := strings.HasPrefix(d.Name, kind+"=")
		switch {
		case vendor == "":
		case one == "*" && inKind, one == "" && inKind && len(out) == 0, d.Name == name:
			out = append(out, d)
		}
	}
	if len(out) == 0 {
		for _, d := range m.List() {
			if d.Annotations[annotationClass] == name {
				out = append(out, d)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("CDI device %q: %w: want VENDOR/CLASS=NAME of a device that the worker's CDI specifications describe", name, ErrNotFound)
	}
	return out, nil
}

// Inject puts devices into a container.
func (m *Manager) Inject(spec *specs.Spec, devices ...Device) error {
	var names []string
	for _, d := range devices {
		if !slices.Contains(names, d.Name) {
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 { // a nil Manager ends here
		return nil
	}
	if _, err := m.cache.InjectDevices(spec, names...); err != nil {
		return fmt.Errorf("inject CDI devices: %w", err)
	}
	return nil
}
