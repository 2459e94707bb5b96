package flight

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type group = Group[string, int, int]

func TestOneFlightForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var runs atomic.Int32
		fn := func(ctx context.Context, c *Call[int, int]) (int, error) {
			runs.Add(1)
			time.Sleep(time.Second)
			return 42, nil
		}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if v, err := g.Do(t.Context(), "k", i, fn); v != 42 || err != nil {
					t.Errorf("Do = %d, %v", v, err)
				}
			})
		}
		wg.Wait()
		if n := runs.Load(); n != 1 {
			t.Errorf("ran %d times", n)
		}
		if _, err := g.Do(t.Context(), "k", 0, fn); err != nil || runs.Load() != 2 {
			t.Errorf("after the flight: ran %d times, %v; want a new flight", runs.Load(), err)
		}
	})
}

func TestErrorIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		boom := errors.New("boom")
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				_, err := g.Do(t.Context(), "k", i, func(context.Context, *Call[int, int]) (int, error) {
					time.Sleep(time.Second)
					return 0, boom
				})
				if !errors.Is(err, boom) {
					t.Errorf("waiter %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	})
}

// The work survives the caller that started it, and ends with the last one.
func TestLastWaiterCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var cause error
		var stopped time.Time
		fn := func(ctx context.Context, c *Call[int, int]) (int, error) {
			<-ctx.Done()
			cause = context.Cause(ctx)
			time.Sleep(10 * time.Millisecond) // winds down
			stopped = time.Now()
			return 0, ctx.Err()
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Second)
				defer cancel()
				_, err := g.Do(ctx, "k", i, fn)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("waiter %d: %v", i, err)
				}
				want := time.Duration(i+1) * time.Second
				if i == 2 {
					want += 10 * time.Millisecond // the last one waits for the end
				}
				if d := time.Since(begin); d != want {
					t.Errorf("waiter %d left after %v, want %v", i, d, want)
				}
			})
		}
		wg.Wait()
		if !errors.Is(cause, ErrAbandoned) {
			t.Errorf("cause = %v", cause)
		}
		if d := stopped.Sub(begin); d != 3*time.Second+10*time.Millisecond {
			t.Errorf("stopped after %v", d)
		}
	})
}

func TestJoinWhileWindingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var running, runs atomic.Int32
		fn := func(ctx context.Context, c *Call[int, int]) (int, error) {
			if running.Add(1) > 1 {
				t.Error("two flights at a time")
			}
			defer running.Add(-1)
			if runs.Add(1) == 1 {
				<-ctx.Done()
				time.Sleep(time.Second)
				return 0, ctx.Err()
			}
			return 7, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		go g.Do(ctx, "k", 1, fn)
		synctest.Wait()
		cancel()
		synctest.Wait()
		if g.Active("k") {
			t.Error("an abandoned flight is active")
		}
		if v, err := g.Do(t.Context(), "k", 2, fn); v != 7 || err != nil {
			t.Errorf("Do = %d, %v", v, err)
		}
	})
}

func TestWaitersAndOnJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g group
		var mu sync.Mutex
		var joined []int
		var seen [][]int
		fn := func(ctx context.Context, c *Call[int, int]) (int, error) {
			c.OnJoin(func(w int) {
				mu.Lock()
				defer mu.Unlock()
				joined = append(joined, w)
			})
			for range 3 {
				seen = append(seen, c.Waiters())
				time.Sleep(time.Second)
			}
			return 0, nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { g.Do(t.Context(), "k", 5, fn) })
		synctest.Wait()
		if !g.Active("k") || g.Active("other") {
			t.Error("Active lies")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		time.Sleep(time.Millisecond)
		wg.Go(func() { g.Do(ctx, "k", 3, fn) })
		time.Sleep(time.Millisecond)
		wg.Go(func() { g.Do(t.Context(), "k", 3, fn) })
		wg.Wait()
		if want := []int{5, 3, 3}; !slices.Equal(joined, want) {
			t.Errorf("joined = %v, want %v", joined, want)
		}
		for i, want := range [][]int{{5}, {5, 3, 3}, {5, 3}} {
			if !slices.Equal(seen[i], want) {
				t.Errorf("waiters at %d s = %v, want %v", i, seen[i], want)
			}
		}
	})
}

func TestPanicAndGoexitBecomeErrors(t *testing.T) {
	var g group
	_, err := g.Do(t.Context(), "k", 0, func(context.Context, *Call[int, int]) (int, error) { panic("ouch") })
	var p *PanicError
	if !errors.As(err, &p) || p.Value != "ouch" || len(p.Stack) == 0 {
		t.Errorf("after a panic: %v", err)
	}
	_, err = g.Do(t.Context(), "k", 0, func(context.Context, *Call[int, int]) (int, error) {
		runtime.Goexit()
		return 1, nil
	})
	if err == nil {
		t.Error("no error after Goexit")
	}
}

func TestCallerAlreadyGone(t *testing.T) {
	var g group
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	_, err := g.Do(ctx, "k", 0, func(context.Context, *Call[int, int]) (int, error) {
		t.Error("ran")
		return 0, nil
	})
	if !errors.Is(err, why) {
		t.Errorf("err = %v", err)
	}
}

// The work sees the values of the context of who started it.
func TestContextValues(t *testing.T) {
	type k struct{}
	var g group
	v, err := g.Do(context.WithValue(t.Context(), k{}, 9), "k", 0, func(ctx context.Context, c *Call[int, int]) (int, error) {
		return ctx.Value(k{}).(int), nil
	})
	if v != 9 || err != nil {
		t.Errorf("Do = %d, %v", v, err)
	}
}
