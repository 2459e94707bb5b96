package cgroup

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// limits are those of a container; zero is none.
type limits struct {
	pids         int64
	memory, swap int64 // bytes; swap is memory and swap together
	shares       uint64
	quota        int64
	period       uint64
	cpus, mems   string
	unified      map[string]string // files of version 2
	devices      policy
}

func readLimits(r *specs.LinuxResources) (limits, error) {
	var l limits
	if r == nil {
		r = &specs.LinuxResources{}
	}
	if r.BlockIO != nil || len(r.HugepageLimits) > 0 || r.Network != nil || len(r.Rdma) > 0 {
		return l, fmt.Errorf("control group: limits of block devices, huge pages, network or RDMA are not supported")
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		l.pids = *r.Pids.Limit
	}
	if m := r.Memory; m != nil {
		l.memory, l.swap = value(m.Limit), value(m.Swap)
		if l.memory > 0 && l.swap > 0 && l.swap < l.memory {
			return l, fmt.Errorf("memory and swap limit %d: want at least the memory limit, %d", l.swap, l.memory)
		}
	}
	if c := r.CPU; c != nil {
		l.shares, l.quota, l.period = value(c.Shares), value(c.Quota), value(c.Period)
		l.cpus, l.mems = c.Cpus, c.Mems
	}
	l.unified = r.Unified
	var err error
	l.devices, err = readPolicy(r.Devices)
	return l, err
}

func value[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

// number writes a limit as version 2 and the pids controller want it.
func number(n int64) string {
	if n <= 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}
