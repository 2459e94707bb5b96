package registry

import (
	"context"
	"errors"
	"net"
	"time"

	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

const (
	firstWait   = 100 * time.Millisecond
	maxWait     = 5 * time.Second
	maxAttempts = 5
)

// backoff counts attempts and waits longer between each.
type backoff struct {
	next time.Duration
	left int
}

func newBackoff() *backoff { return &backoff{next: firstWait, left: maxAttempts - 1} }

// wait waits before another attempt, at least for atLeast, and tells whether
// there should be one.
func (b *backoff) wait(ctx context.Context, atLeast time.Duration) bool {
	if b.left <= 0 || atLeast > maxWait || ctx.Err() != nil {
		return false
	}
	b.left--
	t := time.NewTimer(max(b.next, atLeast))
	defer t.Stop()
	b.next = min(b.next*3, maxWait)
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Retry calls f until it succeeds, fails in a way that will not pass, or has
// failed five times. It is for what the transport cannot repeat by itself, such
// as an upload.
func Retry(ctx context.Context, f func(ctx context.Context) error) error {
	b := newBackoff()
	for {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || !passes(err) || !b.wait(ctx, 0) {
			return err
		}
	}
}

func passes(err error) bool {
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return isBusy(status.StatusCode)
	}
	var ne net.Error
	return isTransient(err) || errors.As(err, &ne) && ne.Timeout()
}
