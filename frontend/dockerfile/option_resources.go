package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// resources reads the limits of memory and processors of every RUN. They are those of docker build, in bytes and microseconds.
func (p *optionParser) resources() *pb.LinuxResources {
	r := &pb.LinuxResources{
		Memory:     parse(p, "memory", "a number of bytes above 0", positive),
		MemorySwap: parse(p, "memswap", "a number of bytes above 0, or -1 for no limit", positiveOrUnlimited),
		CpuShares:  uint64(parse(p, "cpushares", "a number above 0", positive)),
		CpuPeriod:  uint64(parse(p, "cpuperiod", "microseconds above 0", positive)),
		CpuQuota:   parse(p, "cpuquota", "microseconds above 0", positive),
		CpusetCpus: parse(p, "cpusetcpus", "numbers and ranges, as 0-2,4", cpuSet),
		CpusetMems: parse(p, "cpusetmems", "numbers and ranges, as 0-2,4", cpuSet),
	}
	if cmp.Or(r.Memory, r.MemorySwap, int64(r.CpuShares), int64(r.CpuPeriod), r.CpuQuota) == 0 && r.CpusetCpus == "" && r.CpusetMems == "" {
		return nil
	}
	return r
}

func positive(v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err == nil && n <= 0 {
		err = errors.New("not above 0")
	}
	return n, err
}

func positiveOrUnlimited(v string) (int64, error) {
	if v == "-1" {
		return -1, nil
	}
	return positive(v)
}

// maxCPU is above every processor and memory node that a kernel knows (CONFIG_NR_CPUS).
const maxCPU = 8192

func cpuSet(v string) (string, error) {
	for part := range strings.SplitSeq(v, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := cpuNumber(from)
		if err != nil {
			return "", err
		}
		if !isRange {
			continue
		}
		last, err := cpuNumber(to)
		if err != nil {
			return "", err
		}
		if last < first {
			return "", fmt.Errorf("range %q runs backwards", part)
		}
	}
	return v, nil
}

func cpuNumber(s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 || n > maxCPU {
		return 0, fmt.Errorf("%q is no number from 0 to %d", s, maxCPU)
	}
	return n, nil
}
