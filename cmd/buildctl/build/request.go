package build

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/option"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session/auth/authprovider"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/tonistiigi/fsutil"
)

// request is a build that can be run.
type request struct {
	opt  client.SolveOpt
	def  *llb.Definition // instead of a frontend
	call *call           // instead of a build

	progress     string
	debug        bool
	quiet        bool
	unexported   bool // nothing was said about where the result goes
	metadataFile string
	iidFile      string
	refFile      string
	trace        string
	docker       *configfile.ConfigFile
	closers      []io.Closer
}

func (f *flags) newRequest(debug bool) *request {
	ref := strings.ToLower(rand.Text())
	return &request{
		opt:      client.SolveOpt{Ref: ref, FrontendAttrs: map[string]string{}, LocalMounts: map[string]fsutil.FS{}},
		progress: f.progress, debug: debug, quiet: f.quiet,
		metadataFile: f.metadataFile, iidFile: f.iidFile, refFile: f.refFile, trace: f.trace,
		docker: config.LoadDefaultConfigFile(os.Stderr),
	}
}

func (r *request) close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// both reads what the two forms have in common.
func (f *flags) both(r *request, docker bool) error {
	r.opt.FrontendAttrs = map[string]string{}
	if v, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		r.opt.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"] = v
	}
	if err := option.Entitlements(f.allow); err != nil {
		return fmt.Errorf("--allow %w", err)
	}
	r.opt.AllowedEntitlements = f.allow
	var err error
	if r.opt.Exports, err = option.Outputs(f.outputs, docker); err != nil {
		return fmt.Errorf("--output %w", err)
	}
	if r.opt.CacheExports, err = option.CacheExports(slices.Concat(f.cacheTo, f.exportCache)); err != nil {
		return fmt.Errorf("--cache-to %w", err)
	}
	if r.opt.CacheImports, err = option.CacheImports(slices.Concat(f.cacheFrom, f.importCache)); err != nil {
		return fmt.Errorf("--cache-from %w", err)
	}
	if r.opt.OCIStores, err = option.Layouts(f.layouts); err != nil {
		return fmt.Errorf("--oci-layout %w", err)
	}
	if r.opt.SourcePolicy, err = sourcePolicy(f.sourcePolicy); err != nil {
		return fmt.Errorf("--source-policy-file: %w", err)
	}
	return f.services(r)
}

// services are what the daemon may ask of this client during the build.
func (f *flags) services(r *request) error {
	tls, err := option.RegistryTLS(f.registryTLS)
	if err != nil {
		return fmt.Errorf("--registry-auth-tlscontext %w", err)
	}
	r.opt.Session = append(r.opt.Session, authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
		AuthConfigProvider: authprovider.LoadAuthConfig(r.docker), TLSConfigs: tls,
	}))
	if len(f.secrets) > 0 {
		s, err := option.Secrets(f.secrets)
		if err != nil {
			return fmt.Errorf("--secret %w", err)
		}
		r.opt.Session = append(r.opt.Session, s)
	}
	if len(f.ssh) > 0 {
		s, err := option.SSH(f.ssh)
		if err != nil {
			return fmt.Errorf("--ssh %w", err)
		}
		r.opt.Session = append(r.opt.Session, s)
	}
	return nil
}

func sourcePolicy(path string) (*spb.Policy, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var p spb.Policy
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // a rule with a misspelt selector would not do what it says
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &p, nil
}
