package build

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/option"
	"github.com/moby/buildkit/client"
)

// docker reads a command line of docker's form.
func (f *flags) docker(ctx context.Context, r *request, where string) error {
	if err := f.refuse(ofBuildKit, fmt.Sprintf("does not go with a CONTEXT (%q): leave one of them out", where)); err != nil {
		return err
	}
	f.notes()
	if err := f.both(r, true); err != nil {
		return err
	}
	for _, o := range f.outputs {
		if !strings.Contains(o, "=") && strings.HasSuffix(o, ".tar") {
			fmt.Fprintf(os.Stderr, "note: --output %s makes a directory of that name; for an archive: --output type=tar,dest=%s\n", o, o)
		}
	}
	r.opt.Frontend = "dockerfile.v0"
	if r.quiet {
		r.progress = "quiet"
	}
	for _, read := range []func(*request) error{f.frontendOptions, f.stepOptions, f.attestations, f.callOptions, f.dockerOutputs} {
		if err := read(r); err != nil {
			return err
		}
	}
	in := inputs{request: r, file: f.file, where: where, stdin: os.Stdin}
	if err := in.main(ctx); err != nil {
		return err
	}
	if err := in.named(f.contexts); err != nil {
		return fmt.Errorf("--build-context %w", err)
	}
	if r.opt.FrontendAttrs["attest:provenance"] != "" || f.set.Changed("provenance") {
		addRevision(ctx, r.opt.FrontendAttrs, where)
	}
	opts, err := option.Opts(f.opts)
	if err != nil {
		return fmt.Errorf("--opt %w", err)
	}
	maps.Copy(r.opt.FrontendAttrs, opts)
	return nil
}

// frontendOptions says what of the Dockerfile is built, and with which values.
func (f *flags) frontendOptions(r *request) error {
	to := r.opt.FrontendAttrs
	if f.target != "" {
		to["target"] = f.target
	}
	if f.pull {
		to["image-resolve-mode"] = "pull"
	}
	if len(f.noCacheFilter) > 0 {
		if f.noCache {
			return fmt.Errorf("--no-cache-filter %q: --no-cache is given too, which means all stages: want one of them", strings.Join(f.noCacheFilter, ","))
		}
		to["no-cache"] = strings.Join(f.noCacheFilter, ",")
	}
	if f.noCache {
		to["no-cache"] = ""
	}
	if len(f.platforms) > 0 {
		p, err := option.Platforms(f.platforms)
		if err != nil {
			return fmt.Errorf("--platform %w", err)
		}
		to["platform"] = p
	}
	for k, v := range r.docker.ParseProxyConfig("", nil) { // what docker's configuration says about proxies
		if v != nil {
			to["build-arg:"+k] = *v
		}
	}
	if err := option.BuildArgs(to, f.buildArgs); err != nil {
		return fmt.Errorf("--build-arg %w", err)
	}
	if err := option.Labels(to, f.labels); err != nil {
		return fmt.Errorf("--label %w", err)
	}
	return nil
}

// stepOptions says what RUN runs with.
func (f *flags) stepOptions(r *request) error {
	network, err := option.Network(f.network)
	if err != nil {
		return fmt.Errorf("--network %w", err)
	}
	if network == "host" && !slices.Contains(r.opt.AllowedEntitlements, "network.host") {
		r.opt.AllowedEntitlements = append(slices.Clone(r.opt.AllowedEntitlements), "network.host")
	}
	hosts, err := option.Hosts(f.addHosts)
	if err != nil {
		return fmt.Errorf("--add-host %w", err)
	}
	limits, err := option.Ulimits(f.ulimits)
	if err != nil {
		return fmt.Errorf("--ulimit %w", err)
	}
	sizes := map[string]*string{"shm-size": &f.shmSize, "memory": &f.memory, "memory-swap": &f.memorySwap}
	for flag, v := range sizes {
		if *v == "" || *v == "-1" && flag == "memory-swap" {
			continue
		}
		if *v, err = option.Size(*v); err != nil {
			return fmt.Errorf("--%s %w", flag, err)
		}
	}
	for k, v := range map[string]string{
		"force-network-mode": network, "add-hosts": hosts, "ulimit": limits, "shm-size": f.shmSize, "cgroup-parent": f.cgroupParent,
		"memory": f.memory, "memswap": f.memorySwap, "cpushares": f.cpuShares, "cpuperiod": f.cpuPeriod, "cpuquota": f.cpuQuota,
		"cpusetcpus": f.cpusetCPUs, "cpusetmems": f.cpusetMems,
	} {
		if v != "" {
			r.opt.FrontendAttrs[k] = v
		}
	}
	return nil
}

func (f *flags) attestations(r *request) error {
	a, err := option.Attestations(f.attest, f.provenance, f.sbom)
	if err != nil {
		return fmt.Errorf("--attest %w", err)
	}
	maps.Copy(r.opt.FrontendAttrs, a)
	return nil
}

func (f *flags) callOptions(r *request) error {
	v := f.call
	if f.check {
		if f.set.Changed("call") && v != "check" {
			return fmt.Errorf("--call %q: --check is given too: want one of them", v)
		}
		v = "check"
	}
	c, err := parseCall(v)
	if err != nil {
		return fmt.Errorf("--call %w", err)
	}
	if c != nil {
		r.call = c
		r.opt.FrontendAttrs[requestID] = c.request
	}
	return nil
}

// dockerOutputs adds to the outputs what docker's flags say about images.
func (f *flags) dockerOutputs(r *request) error {
	tags, err := option.Tags(f.tags)
	if err != nil {
		return fmt.Errorf("--tag %w", err)
	}
	if r.call != nil {
		r.opt.Exports = nil
		return nil
	}
	r.quiet = r.quiet && !option.Stdout(f.outputs)
	out := r.opt.Exports
	if f.push {
		out = option.Push(out)
	}
	if f.load {
		out = option.Load(out)
	}
	if len(out) == 0 && len(f.outputs) == 0 {
		if len(tags) > 0 || r.quiet || r.iidFile != "" || r.metadataFile != "" || len(f.annotations) > 0 {
			out = append(out, client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{}})
		} else {
			r.unexported = true
		}
	}
	option.Name(out, tags)
	if err := option.CheckPush(out); err != nil {
		return err
	}
	if err := option.Annotate(out, f.annotations); err != nil {
		return fmt.Errorf("--annotation %w", err)
	}
	r.opt.Exports = out
	return nil
}
