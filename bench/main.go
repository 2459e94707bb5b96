// Command bench runs builds on buildd, BuildKit and buildah side by side and
// prints how long they took. bench/run builds it and what it needs;
// bench/README.md explains the workloads.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds  int
	buildah int // rounds of it
	engines string
	buildd  string
	keep    bool
	verbose bool
	table   string
	profile string
	limit   time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "measured rounds, after one to warm up")
	flag.IntVar(&o.buildah, "buildah-rounds", 0, "measured rounds of buildah, which takes most of the time, without one to warm up; 0 is as many as the others")
	flag.StringVar(&o.engines, "engines", "buildd,buildkit,buildah", "what to measure, in the order of each round; buildd-stock is buildd with BuildKit's buildctl")
	flag.StringVar(&o.buildd, "buildd", "", "another `program` to measure as buildd")
	flag.BoolVar(&o.keep, "keep", false, "keep the work directory and say where it is")
	flag.BoolVar(&o.verbose, "v", false, "print every round")
	flag.StringVar(&o.table, "table", "", "write the table to this `file` too")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the daemons to this `directory`")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "how long one build may take")
	flag.Usage = usage
	flag.Parse()
	code, err := start(o, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 1
	}
	os.Exit(code)
}

func usage() {
	fmt.Fprintln(flag.CommandLine.Output(), "bench/run [flag...] [workload...]")
	flag.PrintDefaults()
	for _, w := range workloads() {
		fmt.Fprintf(flag.CommandLine.Output(), "  %-7s %s\n", w.name, w.what)
	}
}

// start is run twice: the first makes what needs the network and starts the
// second in namespaces of its own, which takes everything with it when it ends.
func start(o options, names []string) (int, error) {
	chosen, err := choose(names)
	if err != nil {
		return 0, err
	}
	if o.rounds < 1 {
		return 0, fmt.Errorf("-rounds %d: want at least 1", o.rounds)
	}
	if dir := os.Getenv(stagedDir); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return 0, measure(ctx, o, dir, chosen)
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("daemons that are compared with each other run as root")
	}
	if slices.ContainsFunc(chosen, func(w *workload) bool { return w.debian }) {
		if err := makeDebian(); err != nil {
			return 0, err
		}
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return 0, err
		}
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return 0, err
	}
	defer removeGroups(filepath.Base(dir))
	if o.keep {
		defer fmt.Fprintln(os.Stderr, "kept", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	return stage(dir)
}

// choose returns the workloads of these names, all without any. A name stands
// for those that begin with it and go on with a dash too.
func choose(names []string) ([]*workload, error) {
	all := workloads()
	if len(names) == 0 {
		return all, nil
	}
	var out []*workload
	for _, n := range names {
		found := false
		for _, w := range all {
			if w.name == n || strings.HasPrefix(w.name, n+"-") {
				out, found = append(out, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no workload %s", n)
		}
	}
	return out, nil
}

// measure runs the workloads and prints the table.
func measure(ctx context.Context, o options, dir string, chosen []*workload) error {
	if err := settle(ctx); err != nil {
		return err
	}
	b, err := newBench(ctx, o, dir)
	if err != nil {
		return err
	}
	defer b.close()
	t := &table{engines: b.names(), rounds: o.rounds, when: time.Now()}
	var failed error
	for i, w := range chosen {
		var before *workload
		if i > 0 {
			before = chosen[i-1]
		}
		r, err := b.workload(ctx, w, before)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.name, err))
			fmt.Fprintf(os.Stderr, "%s: %v\n", w.name, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		t.rows = append(t.rows, r)
		fmt.Fprintln(os.Stderr, t.line(r))
	}
	text := t.markdown()
	fmt.Print(text)
	if o.table != "" {
		if err := os.WriteFile(o.table, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return failed
}

// programs is the directory of the programs that bench/run built.
func programs() string {
	exe, err := os.Executable()
	if err != nil {
		panic(err) // /proc is not mounted
	}
	return filepath.Dir(exe)
}

func cores() int { return runtime.NumCPU() }
