package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// step matches "#7 [build 2/3] RUN ..." in plain progress; end what became of it.
var (
	stepLine = regexp.MustCompile(`(?m)^#(\d+) (\[[^\]]+\] .*)$`)
	endLine  = regexp.MustCompile(`(?m)^#(\d+) (CACHED|DONE|ERROR|CANCELED)`)
)

// steps returns how each step of a build ended, by the step's name.
func (r run) steps() map[string]string {
	end := map[string]string{}
	for _, m := range endLine.FindAllStringSubmatch(r.Err, -1) {
		end[m[1]] = m[2]
	}
	out := map[string]string{}
	for _, m := range stepLine.FindAllStringSubmatch(r.Err, -1) {
		if e, ok := end[m[1]]; ok {
			out[m[2]] = e
		}
	}
	return out
}

// ran lists the steps of a build that were not cached, sources and exports apart.
func (r run) ran() []string {
	var out []string
	for name, end := range r.steps() {
		if end != "CACHED" && !strings.Contains(name, "internal]") && !strings.Contains(name, "FROM ") {
			out = append(out, name)
		}
	}
	return out
}

const twoStages = `FROM busybox:latest AS build
COPY main.txt lib.txt /src/
RUN tr a-z A-Z < /src/main.txt > /out.txt
FROM busybox:latest
COPY other.txt /other.txt
RUN sed s/o/0/ /other.txt > /other.out
COPY --from=build /out.txt /out.txt
RUN cat /out.txt /other.out > /all.txt
`

func TestSecondBuildRunsNothing(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	dir := buildContext(t, map[string]string{"Dockerfile": twoStages, "main.txt": "main", "lib.txt": "lib", "other.txt": "other"})
	build := func() run { return d.ctl("build", "--progress=plain", "-t", "cached", dir) }
	if ran := build().ran(); len(ran) != 6 {
		t.Fatalf("the first build ran %q", ran)
	}
	second := build()
	for name, end := range second.steps() {
		if end != "CACHED" && !strings.Contains(name, "[internal]") {
			t.Errorf("%s: %s", name, end)
		}
	}
	if ran := second.ran(); len(ran) != 0 {
		t.Errorf("the second build ran %q", ran)
	}

	t.Run("restart", func(t *testing.T) {
		d.stop()
		d.start()
		if ran := build().ran(); len(ran) != 0 {
			t.Errorf("after a restart the build ran %q", ran)
		}
	})
	t.Run("one file changed", func(t *testing.T) {
		write(t, dir, "other.txt", "another")
		ran := strings.Join(build().ran(), "\n")
		for _, want := range []string{"COPY other.txt", "RUN sed", "COPY --from=build", "RUN cat"} {
			if !strings.Contains(ran, want) {
				t.Errorf("%s did not run again; what ran:\n%s", want, ran)
			}
		}
		if strings.Contains(ran, "RUN tr") || strings.Contains(ran, "COPY main.txt") {
			t.Errorf("a step that does not see the file ran again:\n%s", ran)
		}
	})
	t.Run("early cutoff", func(t *testing.T) {
		write(t, dir, "lib.txt", "another lib") // RUN tr runs again, to the same output
		ran := strings.Join(build().ran(), "\n")
		if !strings.Contains(ran, "RUN tr") {
			t.Errorf("RUN tr did not run again:\n%s", ran)
		}
		if strings.Contains(ran, "COPY --from=build") || strings.Contains(ran, "RUN cat") {
			t.Errorf("a step ran again although its input is the same:\n%s", ran)
		}
	})
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// counted is a step that counts in a cache mount how often it ran.
const counted = `FROM busybox:latest
RUN --mount=type=cache,id=%[1]s,target=/count echo run >> /count/runs && sleep 3 && echo done > /done
`

// runs returns how often the counted step of an ID ran.
func (d *daemon) runs(id string) int {
	d.t.Helper()
	// Not with --no-cache, which empties cache mounts.
	dir := buildContext(d.t, map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox:latest AS count
ARG NOW
RUN --mount=type=cache,id=%s,target=/count cat /count/runs > /runs
FROM scratch
COPY --from=count /runs /runs
`, id)})
	out := d.t.TempDir()
	d.ctl("build", "--build-arg", "NOW="+time.Now().String(), "-o", out, dir)
	b, err := os.ReadFile(filepath.Join(out, "runs"))
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Count(string(b), "run")
}

func TestSharedStepRunsOnce(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	var eg errgroup.Group
	for i := range 4 {
		dir := buildContext(t, map[string]string{"Dockerfile": fmt.Sprintf(counted, "shared") + fmt.Sprintf("RUN echo %d > /mine\n", i)})
		eg.Go(func() error {
			if r := d.try(t.Context(), "build", "--progress=plain", "-t", fmt.Sprintf("shared%d", i), dir); r.Exit != 0 {
				return fmt.Errorf("build %d: %s", i, r.Err)
			}
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := d.runs("shared"); n != 1 {
		t.Errorf("the shared step ran %d times", n)
	}
}

func TestCancelOneLeavesTheOther(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	dir := buildContext(t, map[string]string{"Dockerfile": fmt.Sprintf(counted, "cancel")})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone, stays := make(chan run, 1), make(chan run, 1)
	go func() { gone <- d.try(ctx, "build", "--progress=plain", "-t", "gone", dir) }()
	time.Sleep(time.Second)
	go func() { stays <- d.try(t.Context(), "build", "--progress=plain", "-t", "stays", dir) }()
	time.Sleep(time.Second)
	cancel()
	if r := <-gone; r.Exit == 0 {
		t.Errorf("the cancelled build succeeded:\n%s", r.Err)
	}
	if r := <-stays; r.Exit != 0 {
		t.Errorf("the other build failed:\n%s", r.Err)
	}
	if n := d.runs("cancel"); n != 1 {
		t.Errorf("the step ran %d times", n)
	}
}

func TestCancelStopsTheStep(t *testing.T) {
	d := startDaemon(t)
	d.busybox()
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox:latest\nRUN sleep 987\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if r := d.try(ctx, "build", "--progress=plain", "-t", "x", dir); r.Exit == 0 {
		t.Fatal("a cancelled build succeeded")
	}
	for end := time.Now().Add(10 * time.Second); processes("sleep\x00987") > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the step of a cancelled build goes on")
		}
	}
}

// processes counts those whose command line contains text.
func processes(text string) int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
			n++
		}
	}
	return n
}
