package session

import (
	"context"

	bksession "github.com/moby/buildkit/session"
)

// Pick returns session id, or if that is empty the first session of c that
// passes check (nil: the first). The Caller is usable as long as the session
// lasts, other than one that Any handed out.
func Pick(ctx context.Context, c Client, id string, check func(ctx context.Context, c bksession.Caller) error) (bksession.Caller, error) {
	var picked bksession.Caller
	err := On(ctx, c, id, func(ctx context.Context, _ string, caller bksession.Caller) error {
		if check != nil {
			if err := check(ctx, caller); err != nil {
				return err
			}
		}
		picked = caller
		return nil
	})
	return picked, err
}
