package export

import (
	"slices"
	"time"

	"github.com/buildd/buildd/cache/tree"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// History entries that no frontend wrote.
const (
	historyComment   = "buildkit.exporter.image.v0"
	historyCreatedBy = "created by buildd"
)

// fitHistory makes the history tell of as many layers as there are (OCI
// image-spec, config.md, "history"), and fills in times.
func fitHistory(history []ocispecs.History, layers []tree.LayerInfo) []ocispecs.History {
	out := slices.Clone(history)
	told := 0
	for i := range out {
		if out[i].EmptyLayer {
			continue
		}
		// A layer too many: the config is wrong, which is no reason to lose the
		// image. What is told of the topmost ones becomes a note.
		if told == len(layers) {
			out[i].EmptyLayer = true
			continue
		}
		if out[i].Created == nil {
			out[i].Created = createdAt(layers[told])
		}
		told++
	}
	for _, l := range layers[told:] {
		out = append(out, ocispecs.History{Created: createdAt(l), CreatedBy: historyCreatedBy, Comment: historyComment})
	}
	return fillTimes(out)
}

func createdAt(l tree.LayerInfo) *time.Time {
	if l.Created.IsZero() {
		return nil
	}
	t := l.Created.UTC()
	return &t
}

// fillTimes gives entries without time that of the layer before them. Those
// before the first new layer get its time, not one of the base image.
func fillTimes(history []ocispecs.History) []ocispecs.History {
	var at *time.Time
	gap := false
	for _, h := range history {
		if h.Created == nil {
			gap = true
			continue
		}
		at = h.Created
		if gap {
			break
		}
	}
	gap = false
	for i, h := range history {
		if h.Created == nil {
			gap = true
			history[i].Created = at
		} else if gap {
			at = h.Created
		}
	}
	return history
}

// clampHistory makes no entry younger than epoch, except the first keep ones.
func clampHistory(history []ocispecs.History, epoch time.Time, keep int) {
	for i := keep; i < len(history); i++ {
		if h := &history[i]; h.Created == nil || h.Created.After(epoch) {
			h.Created = &epoch
		}
	}
}

// baseHistory counts the entries that are those of the base image and have a
// time of their own.
func baseHistory(history, base []ocispecs.History) int {
	n := 0
	for n < len(history) && n < len(base) && history[n].Created != nil && sameEntry(history[n], base[n]) {
		n++
	}
	return n
}

func sameEntry(a, b ocispecs.History) bool {
	if b.Created == nil || !a.Created.Equal(*b.Created) {
		return false
	}
	a.Created, b.Created = nil, nil
	return a == b
}
