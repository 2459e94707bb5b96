package gc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"

	"github.com/buildd/buildd/cache"
)

// Record types, as clients know them (client.UsageRecordType).
const (
	TypeRegular     = "regular"
	TypeInternal    = "internal"
	TypeFrontend    = "frontend"
	TypeLocal       = "source.local"
	TypeGitCheckout = "source.git.checkout"
	TypeCacheMount  = "exec.cachemount"
)

// Record is a line of `buildctl du`: a layer, or something that an Extra keeps.
// Its fields are those of the control API's UsageRecord.
type Record struct {
	ID      string
	Mutable bool
	// InUse says that a running build holds it.
	InUse bool
	// Size is the bytes that would be free without it. Blobs of a layer count,
	// but for those that an image in the image store has, too.
	Size      int64
	Parents   []string
	CreatedAt time.Time
	// LastUsedAt is zero if it is not known.
	LastUsedAt  time.Time
	UsageCount  int
	Description string
	RecordType  string
	// Shared says that something outside the cache has it, too.
	Shared bool
}

// Kept is what an Extra keeps.
type Kept struct {
	Record
	// Trees are kept by it beside its own bytes, which are Size.
	Trees []cache.Tree
}

// Extra is a part of the cache beside the action cache: cache mounts, lists of
// local directories, git repositories.
type Extra interface {
	Usage(ctx context.Context) ([]Kept, error)
	// Evict removes what Usage listed under id. It returns cache.ErrNotFound if
	// that is gone, and ErrInUse if somebody uses it.
	Evict(ctx context.Context, id string) error
}

// parseFilters reads filters in containerd's syntax; a record has to match one of
// them, or there is none.
func parseFilters(fs []string) (filters.Filter, error) {
	f, err := filters.ParseAll(fs...)
	if err != nil {
		return nil, fmt.Errorf("parse filters %q: %w", fs, err)
	}
	return f, nil
}

// adapt makes a record's fields known to filters by the names that BuildKit has
// for them.
func adapt(r *Record) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) == 0 {
			return "", false
		}
		switch path[0] {
		case "id":
			return r.ID, r.ID != ""
		case "parents":
			return strings.Join(r.Parents, ";"), len(r.Parents) > 0
		case "description":
			return r.Description, r.Description != ""
		case "inuse":
			return "", r.InUse
		case "mutable":
			return "", r.Mutable
		case "immutable":
			return "", !r.Mutable
		case "type":
			return r.RecordType, r.RecordType != ""
		case "shared":
			return "", r.Shared
		case "private":
			return "", !r.Shared
		default: // a filter on what a record does not have matches nothing
			return "", false
		}
	})
}
