package builder

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/worker/device"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/exptypes"
	"github.com/moby/buildkit/solver/pb"
)

// The entitlements that a client can ask for, as BuildKit names them.
const (
	EntitlementSecurityInsecure = "security.insecure"
	EntitlementNetworkHost      = "network.host"
	EntitlementDevice           = "device"
)

// builtinFrontend is the name of the daemon's own frontend.
const builtinFrontend = "dockerfile.v0"

// translate gives a request of an older client today's form.
func translate(req *control.SolveRequest) {
	if req.Cache == nil {
		req.Cache = &control.CacheOptions{}
	}
	c := req.Cache
	if ref := c.ExportRefDeprecated; ref != "" {
		attrs := map[string]string{"ref": ref}
		for k, v := range c.ExportAttrsDeprecated {
			attrs[k] = v
		}
		c.Exports = append(c.Exports, &control.CacheOptionsEntry{Type: "registry", Attrs: attrs})
	}
	for _, ref := range c.ImportRefsDeprecated {
		c.Imports = append(c.Imports, &control.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	c.ExportRefDeprecated, c.ExportAttrsDeprecated, c.ImportRefsDeprecated = "", nil, nil
	if len(req.Exporters) == 0 && req.ExporterDeprecated != "" {
		req.Exporters = []*control.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	req.ExporterDeprecated, req.ExporterAttrsDeprecated = "", nil
	useBuiltin(req)
	epoch, ok := req.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"]
	if !ok || !isSeconds(epoch) {
		return
	}
	for _, e := range req.Exporters {
		if e.Attrs == nil {
			e.Attrs = map[string]string{}
		}
		if _, ok := e.Attrs[string(exptypes.OptKeySourceDateEpoch)]; !ok {
			e.Attrs[string(exptypes.OptKeySourceDateEpoch)] = epoch
		}
	}
}

// useBuiltin calls the daemon's own frontend by its name where a client names it
// as the image of a gateway frontend, so that records and provenance do.
func useBuiltin(req *control.SolveRequest) {
	if req.Frontend != "gateway.v0" || req.FrontendAttrs["source"] != builtinFrontend {
		return
	}
	for k := range req.FrontendAttrs { // the name of a context goes before it
		if k == "context:"+builtinFrontend || strings.HasPrefix(k, "context:"+builtinFrontend+"::") {
			return
		}
	}
	req.Frontend, req.FrontendAttrs = builtinFrontend, maps.Clone(req.FrontendAttrs)
	delete(req.FrontendAttrs, "source")
}

// isSeconds tells a time from the names that the Dockerfile frontend gives a
// meaning to, such as "context".
func isSeconds(s string) bool {
	return s == "" || strings.Trim(s, "0123456789") == ""
}

// Devices are those of the machine that steps run on.
type Devices interface {
	// Find returns the devices that a name stands for. What is not there is an
	// error.
	Find(name string) ([]device.Device, error)
}

// allowance returns what refuses ops that want more than the build was granted:
// what the client asked for and the daemon allows.
func allowance(asked, allowed []string, devices Devices) (func(*pb.Op) error, error) {
	granted, grantedDevices := map[string]bool{}, map[string]bool{}
	for _, e := range asked {
		name, param, _ := strings.Cut(e, "=")
		if name == EntitlementDevice && param != "" {
			found, err := devices.Find(strings.TrimPrefix(param, "name="))
			if err != nil {
				return nil, fmt.Errorf("entitlement %q: %w", e, err)
			}
			for _, d := range found {
				grantedDevices[d.Name] = true
			}
			continue
		}
		switch name {
		case EntitlementSecurityInsecure, EntitlementNetworkHost, EntitlementDevice:
		default:
			return nil, fmt.Errorf("entitlement %q is not known: want %s, %s or %s", e, EntitlementSecurityInsecure, EntitlementNetworkHost, EntitlementDevice)
		}
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("entitlement %s is not allowed by the daemon: start it with --allow-insecure-entitlement %s", name, name)
		}
		granted[name] = true
	}
	allowDevices := func(x *pb.ExecOp) error {
		for _, want := range x.CdiDevices {
			found, _ := devices.Find(want.Name) // who needs what is not there finds out when the step runs
			for _, d := range found {
				if !d.AutoAllow && !granted[EntitlementDevice] && !grantedDevices[d.Name] {
					return fmt.Errorf("device %s is requested by the build but not allowed: pass --allow device=%s", d.Name, d.Name)
				}
			}
		}
		return nil
	}
	return func(op *pb.Op) error {
		x := op.GetExec()
		if x == nil {
			return nil
		}
		if x.Network == pb.NetMode_HOST && !granted[EntitlementNetworkHost] {
			return fmt.Errorf("%s is not allowed: pass --allow %s", EntitlementNetworkHost, EntitlementNetworkHost)
		}
		if x.Security == pb.SecurityMode_INSECURE && !granted[EntitlementSecurityInsecure] {
			return fmt.Errorf("%s is not allowed: pass --allow %s", EntitlementSecurityInsecure, EntitlementSecurityInsecure)
		}
		return allowDevices(x)
	}, nil
}
