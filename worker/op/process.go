package op

import (
	"context"
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/buildd/buildd/worker/runtime"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// processRequest is the first process of a container.
type processRequest struct {
	args     []string
	env      *environment
	cwd      string
	user     string
	terminal bool
	insecure bool
	ulimits  []*pb.Ulimit

	cgroupParent string
	resources    *pb.LinuxResources
}

// prepare mounts the sandbox's trees and makes the spec of a container in it.
func (s *sandbox) prepare(ctx context.Context, p processRequest) (*specs.Spec, error) {
	user, err := lookupUser(s.root().view, p.user)
	if err != nil {
		return nil, err
	}
	p.env.setDefault("PATH", defaultPath)
	p.env.setDefault("HOME", user.home)
	cwd := clean(p.cwd)
	if s.w.IgnoreOwner { // there is no other user to become
		s.owner, user = user, execUser{home: user.home}
	}
	makeCwd, err := s.planCwd(cwd, user)
	if err != nil {
		return nil, fmt.Errorf("working directory %s: %w", cwd, err)
	}
	if err := s.mountTrees(ctx); err != nil {
		return nil, err
	}
	if makeCwd != nil {
		if err := makeCwd(); err != nil {
			return nil, fmt.Errorf("make working directory %s: %w", cwd, err)
		}
	}
	spec, err := runtime.Spec(runtime.SpecOptions{
		ID: s.id, Root: s.root().dir, ReadonlyRoot: !s.root().writable,
		Args: p.args, Env: p.env.list, Cwd: cwd, Terminal: p.terminal,
		UID: user.uid, GID: user.gid, AdditionalGIDs: user.groups,
		Hostname: s.req.hostname, HostNetwork: s.req.network == pb.NetMode_HOST,
		Mounts: s.specMounts(), Rlimits: posixRlimits(p.ulimits), Resources: linuxResources(p.resources),
		CgroupParent: s.w.cgroupParent(p.cgroupParent), PidsLimit: s.w.PidsLimit, OOMScoreAdj: s.w.OOMScoreAdj,
		Insecure: p.insecure, Seccomp: s.w.Seccomp, ApparmorProfile: s.w.ApparmorProfile,
		NoNewPrivileges: s.w.NoNewPrivileges, Rootless: s.w.Rootless,
	})
	if err != nil {
		return nil, err
	}
	return spec, s.connect(ctx, spec)
}

// connect gives the container its network.
func (s *sandbox) connect(ctx context.Context, spec *specs.Spec) error {
	provider := s.w.Networks[s.req.network]
	if provider == nil {
		return fmt.Errorf("network mode %s is not available on this worker", s.req.network)
	}
	ns, err := provider.New(ctx, spec.Hostname)
	if err != nil {
		return fmt.Errorf("make network: %w", err)
	}
	s.onClose(ns.Close)
	if err := ns.Configure(spec); err != nil {
		return fmt.Errorf("configure network: %w", err)
	}
	return nil
}

// cgroupParent joins what the client asks for to where containers belong here,
// so that it cannot lead out of it.
func (w *Worker) cgroupParent(asked string) string {
	if asked == "" {
		return w.CgroupParent
	}
	base := w.CgroupParent
	if base == "" {
		base = "/buildd"
	}
	return path.Join(base, path.Clean("/"+asked))
}

func posixRlimits(limits []*pb.Ulimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, u := range limits {
		out = append(out, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard),
		})
	}
	return out
}

func linuxResources(r *pb.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	out := &specs.LinuxResources{}
	if r.Memory != 0 || r.MemorySwap != 0 {
		out.Memory = &specs.LinuxMemory{Limit: nonZero(r.Memory), Swap: nonZero(r.MemorySwap)}
	}
	if r.CpuShares != 0 || r.CpuQuota != 0 || r.CpuPeriod != 0 || r.CpusetCpus != "" || r.CpusetMems != "" {
		out.CPU = &specs.LinuxCPU{
			Shares: nonZero(r.CpuShares), Quota: nonZero(r.CpuQuota), Period: nonZero(r.CpuPeriod),
			Cpus: r.CpusetCpus, Mems: r.CpusetMems,
		}
	}
	return out
}

func nonZero[T int64 | uint64](v T) *T {
	if v == 0 {
		return nil
	}
	return &v
}

func validateResources(r *pb.LinuxResources) error {
	if r == nil {
		return nil
	}
	if r.Memory < 0 || r.MemorySwap < -1 || r.CpuQuota < -1 || r.CpuPeriod > math.MaxInt32 || r.CpuShares > 1<<18 {
		return fmt.Errorf("resource limits are out of range: memory %d, swap %d, CPU quota %d, period %d, shares %d",
			r.Memory, r.MemorySwap, r.CpuQuota, r.CpuPeriod, r.CpuShares)
	}
	for _, list := range []string{r.CpusetCpus, r.CpusetMems} {
		if strings.Trim(list, "0123456789,-") != "" || len(list) > 1024 {
			return fmt.Errorf("cpuset %q: want a list such as 0-2,7", list)
		}
	}
	return nil
}
