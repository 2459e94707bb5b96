package dockerfile

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
)

func TestMemo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memo[int]
		calls := 0
		slow := func(ctx context.Context) (int, error) {
			calls++
			select {
			case <-time.After(time.Second):
				return 7, errors.New("failed")
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		// A caller who gives up leaves nothing behind.
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if _, err := m.do(ctx, "k", slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("gave up with %v", err)
		}
		cancel()

		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if v, err := m.do(context.Background(), "k", slow); v != 7 || err == nil || err.Error() != "failed" {
					t.Errorf("%d, %v", v, err)
				}
			})
		}
		wg.Wait()
		if v, err := m.do(context.Background(), "k", slow); v != 7 || err == nil {
			t.Errorf("remembered %d, %v", v, err)
		}
		if calls != 2 {
			t.Errorf("%d calls, want the abandoned one and one more", calls)
		}
	})
}

func TestResolveOnce(t *testing.T) {
	client := &fakeClient{images: map[string]string{"docker-image://docker.io/library/a:latest": "{}"}}
	r := metaResolver{client: client}
	ask := func(log, mode string) {
		op := &pb.SourceOp{Identifier: "docker-image://docker.io/library/a:latest"}
		o := sourceresolver.Opt{LogName: log, ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: mode}}
		if _, err := r.ResolveSourceMetadata(context.Background(), op, o); err != nil {
			t.Fatal(err)
		}
	}
	ask("one", "default")
	ask("two", "default")
	ask("two", "pull")
	if len(client.resolves) != 2 {
		t.Errorf("asked %q, want one question for each mode", client.resolves)
	}
}
