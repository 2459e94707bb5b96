package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// nonce is an argument that is new in every round, so that nothing is cached.
func nonce(round int) map[string]string {
	return map[string]string{"NONCE": strconv.Itoa(round)}
}

// plain is a workload that builds one Dockerfile with an argument per round and
// wants so many RUN steps to run.
func plain(w workload, text string, steps int) *workload { return parallel(w, text, steps, 0) }

// parallel does the same with so many stages at once.
func parallel(w workload, text string, steps, stages int) *workload {
	file := "plain-" + w.name
	w.setup = func(_ context.Context, b *bench) error {
		_, err := b.dockerfile(file, text)
		return err
	}
	w.run = func(ctx context.Context, b *bench, e engine, round int) (outcome, error) {
		return e.build(ctx, request{dir: b.fixtureDir(file), args: nonce(round), parallel: stages})
	}
	w.after = func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.want(steps, 0) }
	return &w
}

// cached is a workload that builds one Dockerfile over and over and wants that
// none of its RUN steps runs again.
func cached(w workload, steps int, fill func(b *bench, dir string) error) *workload {
	file := "cached-" + w.name
	w.setup = func(_ context.Context, b *bench) error {
		_, err := b.fixture(file, func(dir string) error { return fill(b, dir) })
		return err
	}
	w.start = func(ctx context.Context, b *bench, e engine) error {
		_, err := e.build(ctx, request{dir: b.fixtureDir(file)})
		return err
	}
	w.run = func(ctx context.Context, b *bench, e engine, _ int) (outcome, error) {
		return e.build(ctx, request{dir: b.fixtureDir(file)})
	}
	w.after = func(_ context.Context, _ *bench, _ engine, _ int, o outcome) error { return o.want(0, steps) }
	return &w
}

func stepWorkloads() []*workload {
	thirty := "FROM %BASE%\nARG NONCE\n" + strings.Repeat("RUN true\n", 30)
	return []*workload{
		plain(workload{name: "w1", what: "30 RUN steps that do nothing, no cache", target: 0.15, floor: "w1"}, thirty, 30),
		plain(workload{name: "w1n", what: "the same, each with a network of its own", target: 0.2, floor: "w1n", net: "own"}, thirty, 30),
		cached(workload{name: "w2", what: "nothing changed, two stages", target: 0.4, floor: "w2"}, 3, twoStages),
	}
}

func twoStages(b *bench, dir string) error {
	if err := os.Mkdir(filepath.Join(dir, "src"), 0o755); err != nil {
		return err
	}
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(dir, "src", fmt.Sprint("file", i)), fmt.Appendln(nil, "text", i), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.expand(`FROM %BASE% AS build
WORKDIR /src
COPY src/ .
RUN cat * > /all
RUN sort /all > /sorted
FROM %BASE%
RUN mkdir -p /app
COPY --from=build /sorted /app/sorted
ENV A=b
CMD ["cat", "/app/sorted"]
`)), 0o644)
}
