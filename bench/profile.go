package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
)

// profiler is an engine that can say what it spends its time on.
type profiler interface {
	profile(ctx context.Context, seconds int, w io.Writer) error
}

// profile takes a CPU profile of an engine for as long as the round before took,
// at least a second; the channel tells when it has ended. Without -profile, and
// in the first round, it has ended at once.
func (b *bench) profile(ctx context.Context, w *workload, e engine, round int) <-chan error {
	done := make(chan error, 1)
	p, ok := e.(profiler)
	if b.o.profile == "" || !ok || round == 0 {
		done <- nil
		return done
	}
	seconds := int(max(1, math.Round(b.took[e.name()].Seconds())))
	path := filepath.Join(b.o.profile, fmt.Sprintf("%s-%s-%d.pprof", w.name, e.name(), round))
	go func() {
		f, err := os.Create(path)
		if err == nil {
			defer f.Close()
			err = p.profile(ctx, seconds, f)
		}
		done <- err
	}()
	return done
}

func (d *daemon) profile(ctx context.Context, seconds int, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", d.debug, seconds), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile %s: %s", d.label, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
