package session

import (
	"context"
	"errors"
	"fmt"

	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
)

// ErrNotFound is returned, wrapped, for what no client has.
var ErrNotFound = errors.New("not found")

// Secret returns the secret id of the first client that has it. A secret that
// none has is ErrNotFound.
func Secret(ctx context.Context, c Client, id string) ([]byte, error) {
	var out []byte
	err := On(ctx, c, "", func(ctx context.Context, _ string, caller bksession.Caller) error {
		b, err := secrets.GetSecret(ctx, caller, id)
		if err != nil {
			return err
		}
		out = b
		return nil
	})
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, secrets.ErrNotFound), errors.Is(err, ErrNoSession):
		return nil, fmt.Errorf("secret %s: %w: pass --secret id=%s,src=FILE", id, ErrNotFound, id)
	default:
		return nil, fmt.Errorf("get secret %q: %w", id, err)
	}
}

// FirstSecret returns the first of ids that a client has, and which it is; ""
// if no client has any.
func FirstSecret(ctx context.Context, c Client, ids ...string) (id string, value []byte, err error) {
	for _, id := range ids {
		value, err := Secret(ctx, c, id)
		if err == nil {
			return id, value, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return "", nil, err
		}
	}
	return "", nil, nil
}
