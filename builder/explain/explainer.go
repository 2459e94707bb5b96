package explain

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
)

// Memory keeps what the last builds of targets were like, as action.Store does.
type Memory interface {
	// LastBuild returns cache.ErrNotFound for a target that it does not know.
	LastBuild(ctx context.Context, target string) ([]byte, error)
	SetLastBuild(ctx context.Context, target string, text []byte) error
}

// Trees compares trees, as tree.Store does.
type Trees interface {
	Changes(ctx context.Context, old, new cache.Tree, sel cache.Selector, fn func(digest.Change) error) error
}

// Config is what an Explainer stands on.
type Config struct {
	Memory Memory
	Trees  Trees
	Log    *slog.Logger // slog.Default() if nil
}

// Explainer explains the builds of a daemon. It is safe for concurrent use.
type Explainer struct {
	Config

	mu   sync.Mutex           // guards what follows
	seen map[string]cache.Key // by target: the fingerprint of what is remembered
}

// maxSeen bounds the fingerprints that are kept.
const maxSeen = 4096

// New returns an Explainer.
func New(c Config) *Explainer {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Explainer{Config: c, seen: map[string]cache.Key{}}
}

// last returns what is remembered of a target, nil if that is nothing. What
// cannot be read is forgotten.
func (x *Explainer) last(ctx context.Context, target string) *lastBuild {
	b, err := x.Memory.LastBuild(ctx, target)
	if errors.Is(err, cache.ErrNotFound) {
		return nil
	}
	var l *lastBuild
	if err == nil {
		l, err = decodeLast(b)
	}
	if err != nil {
		x.Log.Warn("steps that run are not explained", "target", target, "error", err)
		return nil
	}
	return l
}

// isSeen tells whether a build with this fingerprint is what is remembered of a
// target already, so that builds that change nothing cost nothing.
func (x *Explainer) isSeen(target string, print cache.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen[target] == print
}

func (x *Explainer) saw(target string, print cache.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.seen) >= maxSeen {
		clear(x.seen)
	}
	x.seen[target] = print
}

// remember keeps what a build was like for the next one of its target.
func (x *Explainer) remember(ctx context.Context, target string, l *lastBuild, print cache.Key) {
	b, err := l.encode()
	if err == nil {
		err = x.Memory.SetLastBuild(ctx, target, b)
	}
	if err != nil {
		x.Log.Warn("the next build of this target is not explained", "target", target, "error", err)
		return
	}
	x.saw(target, print)
}
