package mount

import (
	"context"
	"errors"

	"github.com/buildd/buildd/cache"
)

// Forget removes the directories of all cache mounts with one of the IDs, but
// for those that are in use. BuildKit does so for the cache mounts of steps that
// ignore the cache.
func (c *Caches) Forget(ctx context.Context, ids ...string) error {
	var names []string
	c.mu.Lock()
	for _, s := range c.slots {
		for _, id := range ids {
			if s.ID == id && s.users == 0 && !s.creating {
				names = append(names, s.name)
			}
		}
	}
	c.mu.Unlock()
	for _, n := range names {
		if err := c.Remove(ctx, n); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, cache.ErrNotFound) {
			return err
		}
	}
	return nil
}
