package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// memoryWorkloads are w12: what the daemons hold when they have started, and
// after one round of every workload before.
func memoryWorkloads(before []*workload) []*workload {
	none := func(context.Context, *bench, engine, int) (outcome, error) { return outcome{}, nil }
	held := func(e engine) (float64, error) {
		m, err := e.memory()
		return float64(m.now) / (1 << 20), err
	}
	w := workload{unit: "MB", once: true, value: held, without: map[string]string{"buildah": "it has no daemon"}}
	idle, after := w, w
	idle.name, idle.what = "w12-idle", "memory of the daemon that has started"
	idle.run = none
	idle.before = func(context.Context, *bench, engine, int) error {
		time.Sleep(2 * time.Second)
		return nil
	}
	after.name, after.what, after.target = "w12-used", "memory of the daemon after w1 to w8", 0.5
	after.setup = func(ctx context.Context, b *bench) error {
		for _, w := range before {
			if w.setup != nil {
				if err := w.setup(ctx, b); err != nil {
					return err
				}
			}
		}
		return nil
	}
	after.before = func(ctx context.Context, b *bench, e engine, _ int) error {
		for _, w := range before {
			if err := b.pass(ctx, w, e); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
		time.Sleep(5 * time.Second)
		return nil
	}
	after.run = none
	return []*workload{&idle, &after}
}

// pass runs a workload once on an engine as it is. What its network is does not
// matter: the daemon runs already.
func (b *bench) pass(ctx context.Context, w *workload, e engine) error {
	const round = 2000
	if w.start != nil {
		if err := w.start(ctx, b, e); err != nil {
			return err
		}
	}
	if w.before != nil {
		if err := w.before(ctx, b, e, round); err != nil {
			return err
		}
	}
	_, err := w.run(ctx, b, e, round)
	return err
}

func reuseWorkloads() []*workload {
	return []*workload{packagesWorkload(), cutoffWorkload(), importWorkload()}
}

// cutoffWorkload is w10. The first RUN reads a file that changes, and writes
// what it always writes.
func cutoffWorkload() *workload {
	text := "FROM %BASE%\nRUN --mount=type=bind,source=input,target=/mnt cat /mnt > /dev/null && echo same > /out\n"
	for i := range 10 {
		text += fmt.Sprintf("RUN sleep 1 && echo %d > /out%d\n", i, i)
	}
	w := &workload{name: "w10", what: "early cutoff: first RUN re-runs to the same files, ten steps of 1 s after it", target: 0.05, floor: "w10",
		without: map[string]string{"buildah": "it does not run a step again whose mounted file has changed"}}
	change := func(b *bench, round int) error {
		return os.WriteFile(filepath.Join(b.fixtureDir("cutoff"), "input"), fmt.Appendln(nil, "round", round), 0o644)
	}
	w.setup = func(_ context.Context, b *bench) error {
		_, err := b.dockerfile("cutoff", text)
		return err
	}
	w.start = func(ctx context.Context, b *bench, e engine) error {
		if err := change(b, -1); err != nil {
			return err
		}
		_, err := e.build(ctx, request{dir: b.fixtureDir("cutoff")})
		return err
	}
	w.before = func(_ context.Context, b *bench, _ engine, round int) error { return change(b, round) }
	w.run = func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
		return e.build(ctx, request{dir: b.fixtureDir("cutoff")})
	}
	w.after = func(_ context.Context, _ *bench, e engine, _ int, o outcome) error {
		if strings.HasPrefix(e.name(), "buildd") {
			return o.want(1, 10)
		}
		if o.ran < 1 || o.ran+o.cached != 11 {
			return fmt.Errorf("%d RUN steps ran and %d were cached, want 11 in all", o.ran, o.cached)
		}
		return nil
	}
	return w
}

// importWorkload is w11: the cache is exported once, when an engine starts.
func importWorkload() *workload {
	const steps = 100
	w := &workload{name: "w11", what: "import of a registry cache of 100 steps, then a build without changes on an empty state", target: 0.4, floor: "w2", cold: true}
	w.setup = func(_ context.Context, b *bench) error {
		_, err := b.dockerfile("import", chain(steps))
		return err
	}
	w.start = func(ctx context.Context, b *bench, e engine) error {
		if _, err := e.build(ctx, request{dir: b.fixtureDir("import"), cacheTo: b.registry.ref(e.name() + "/cache")}); err != nil {
			return err
		}
		return e.fresh(ctx, w.network())
	}
	w.run = func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
		return e.build(ctx, request{dir: b.fixtureDir("import"), cacheFrom: b.registry.ref(e.name() + "/cache")})
	}
	w.after = func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.want(0, steps) }
	return w
}
