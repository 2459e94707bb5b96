package gc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Policy says what to remove, as [[worker.oci.gcpolicy]] of buildkitd.toml and
// `buildctl prune` do. Without any of the three spaces it removes all that it
// covers; else the least recently used of that, until the cache is small enough.
type Policy struct {
	// All covers records of type internal and frontend, too, and shared ones.
	All bool
	// Filters in containerd's syntax cover what matches one of them; none covers
	// everything.
	Filters []string
	// KeepDuration is how long a record stays after its last use.
	KeepDuration time.Duration
	// ReservedSpace is what the cache may use whatever else is set.
	ReservedSpace int64
	// MaxUsedSpace is what the cache may use at most.
	MaxUsedSpace int64
	// MinFreeSpace is what is to be free on the disk.
	MinFreeSpace int64
}

// bounded tells whether p removes only as much as it has to.
func (p Policy) bounded() bool {
	return p.ReservedSpace != 0 || p.MaxUsedSpace != 0 || p.MinFreeSpace != 0
}

// keep returns how many bytes of used may stay when free bytes are free.
func (p Policy) keep(used, free int64) int64 {
	if !p.bounded() {
		return 0
	}
	keep := used
	if p.MaxUsedSpace != 0 {
		keep = min(keep, p.MaxUsedSpace)
	} else if p.MinFreeSpace == 0 {
		keep = 0 // only what is reserved
	}
	if lack := p.MinFreeSpace - free; lack > 0 {
		keep = min(keep, used-lack)
	}
	return max(keep, p.ReservedSpace)
}

// Space is an amount of disk space as buildkitd.toml has it: bytes ("512MB",
// 512000000) or a share of the disk ("10%").
type Space struct {
	Bytes   int64
	Percent int64
}

// UnmarshalText reads the forms above. Units are powers of 1024, as in BuildKit.
func (s *Space) UnmarshalText(text []byte) error {
	t := strings.Trim(string(text), `"`)
	if t == "" {
		*s = Space{}
		return nil
	}
	if p, ok := strings.CutSuffix(t, "%"); ok {
		n, err := strconv.ParseInt(p, 10, 64)
		if err != nil || n < 0 || n > 100 {
			return fmt.Errorf("disk space %q: want a percentage from 0%% to 100%%", t)
		}
		*s = Space{Percent: n}
		return nil
	}
	n, err := units.RAMInBytes(t)
	if err != nil || n < 0 {
		return fmt.Errorf(`disk space %q: want a number of bytes, "512MB" or "10%%"`, t)
	}
	*s = Space{Bytes: n}
	return nil
}

// Of returns the number of bytes on a disk of the given size.
func (s Space) Of(disk int64) int64 {
	if s.Bytes != 0 {
		return s.Bytes
	}
	return disk / 100 * s.Percent
}

// Limits are reservedSpace, maxUsedSpace and minFreeSpace where no policies are
// configured.
type Limits struct{ Reserved, MaxUsed, MinFree Space }

// DefaultLimits are those that BuildKit has where none are configured: a tenth of
// the disk reserved but no more than 10 GB, four fifths used at most but no more
// than 100 GB, a fifth free.
func DefaultLimits(disk int64) Limits {
	const gb = 1e9
	return Limits{
		Reserved: Space{Bytes: min(10*gb, Space{Percent: 10}.Of(disk))},
		MaxUsed:  Space{Bytes: min(100*gb, Space{Percent: 80}.Of(disk))},
		MinFree:  Space{Percent: 20},
	}
}

// DefaultPolicies are BuildKit's: what is had again most easily goes first, then
// what was not used for 60 days, then anything until the limits are met, what
// only builds of Dockerfiles need to begin with last.
func DefaultPolicies(l Limits, disk int64) []Policy {
	if l == (Limits{}) {
		l = DefaultLimits(disk)
	}
	bounds := Policy{ReservedSpace: l.Reserved.Of(disk), MaxUsedSpace: l.MaxUsed.Of(disk), MinFreeSpace: l.MinFree.Of(disk)}
	old, all := bounds, bounds
	old.KeepDuration = 60 * 24 * time.Hour
	all.All = true
	return []Policy{
		{
			Filters:      []string{"type==" + TypeLocal, "type==" + TypeCacheMount, "type==" + TypeGitCheckout},
			KeepDuration: 48 * time.Hour,
			MaxUsedSpace: 512e6,
		},
		old, bounds, all,
	}
}
