package builder

import (
	"fmt"
	"slices"
	"strings"

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

// isSeconds tells a time from the names that the Dockerfile frontend gives a
// meaning to, such as "context".
func isSeconds(s string) bool {
	return s == "" || strings.Trim(s, "0123456789") == ""
}

// allowance returns what refuses ops that want more than the build was granted:
// what the client asked for and the daemon allows.
func allowance(asked, allowed []string) (func(*pb.Op) error, error) {
	granted := map[string]bool{}
	for _, e := range asked {
		name, _, _ := strings.Cut(e, "=")
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
		return nil
	}, nil
}
