package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func stageWorkloads() []*workload {
	chainOf := func(n int) func(b *bench, dir string) error {
		return func(b *bench, dir string) error {
			return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.expand(chain(n))), 0o644)
		}
	}
	slow := map[string]string{"buildah": "filling its cache with so many steps takes a quarter of an hour: see w8-250"}
	return []*workload{
		parallel(workload{name: "w6", what: "8 independent stages that each sleep 1 s, then 8 COPY --from", target: 0.75, floor: "w6"}, sleepers(), 8, 8),
		crowdWorkload(),
		cached(workload{name: "w8-250", what: "cached chain of 250 steps", floor: "w2", group: "chain"}, 250, chainOf(250)),
		cached(workload{name: "w8-500", what: "cached chain of 500 steps", floor: "w2", group: "chain", without: slow}, 500, chainOf(500)),
		cached(workload{name: "w8-1000", what: "cached chain of 1,000 steps", target: 0.3, floor: "w2", group: "chain", without: slow}, 1000, chainOf(1000)),
		cached(workload{name: "w8-wide", what: "500 parallel cached stages", target: 0.3, floor: "w2", without: slow}, 500, func(b *bench, dir string) error {
			return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(b.expand(wide(500))), 0o644)
		}),
	}
}

func sleepers() string {
	var s strings.Builder
	for i := range 8 {
		fmt.Fprintf(&s, "FROM %%BASE%% AS s%d\nARG NONCE\nRUN sleep 1 && echo %s && echo %d > /out\n", i, ranLine, i)
	}
	s.WriteString("FROM %BASE%\n")
	for i := range 8 {
		fmt.Fprintf(&s, "COPY --from=s%d /out /out%d\n", i, i)
	}
	return s.String()
}

// chain is a Dockerfile of n RUN steps, each of which needs the one before. A
// stage ends after 100, as file systems cannot be stacked without end; the next
// goes on with the file of the one before.
func chain(n int) string {
	var s strings.Builder
	for i := range n {
		if i%100 == 0 {
			fmt.Fprintf(&s, "FROM %%BASE%% AS s%d\n", i/100)
			if i > 0 {
				fmt.Fprintf(&s, "COPY --from=s%d /n /n\n", i/100-1)
			}
		}
		fmt.Fprintf(&s, "RUN echo %d >> /n\n", i)
	}
	return s.String()
}

// wide is a Dockerfile of n stages of one RUN step that do not need each other,
// and one that gathers their files, by way of others with 25 each.
func wide(n int) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "FROM %%BASE%% AS s%d\nRUN echo %d > /out\n", i, i)
	}
	for i := 0; i < n; i += 25 {
		fmt.Fprintf(&s, "FROM scratch AS g%d\n", i)
		for j := i; j < min(i+25, n); j++ {
			fmt.Fprintf(&s, "COPY --from=s%d /out /out/%d\n", j, j)
		}
	}
	s.WriteString("FROM %BASE%\n")
	for i := 0; i < n; i += 25 {
		fmt.Fprintf(&s, "COPY --from=g%d /out /out\n", i)
	}
	return s.String()
}
