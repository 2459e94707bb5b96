package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/progress"
	filesyncv1 "github.com/buildd/buildd/proto/buildd/filesync/v1"
	"github.com/moby/buildkit/client"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/util/progress/progresswriter"
)

// run runs the request on a daemon, shows how it goes, and writes down what came
// of it.
func (r *request) run(ctx context.Context, c *connect.Conn) (err error) {
	trace, err := r.openTrace()
	if err != nil {
		return err
	}
	display, err := progress.New(r.progress)
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	for _, s := range r.opt.Session {
		if l, ok := s.(interface{ SetLogger(progresswriter.Logger) }); ok {
			l.SetLogger(display.Send)
		}
	}
	handlers := filesyncv1.Handlers{Output: outputs(r.opt.Exports)}
	if len(r.opt.LocalMounts) > 0 {
		files, err := newFileSync(r.opt.LocalMounts)
		if err != nil {
			return err
		}
		r.opt.Session = append(r.opt.Session, files)
		handlers.Files = files.files
	}
	c.Lend(handlers)
	if r.refFile != "" {
		defer func() { err = errors.Join(err, writeFile("--ref-file", r.refFile, []byte(r.opt.Ref))) }()
	}
	var failures progress.Failures
	if display.Quiet() {
		trace = append(trace, failures.Add)
	}
	var answer *gwclient.Result
	var res *client.SolveResponse
	if r.call != nil {
		res, err = c.Build(ctx, r.opt, "buildctl", func(ctx context.Context, g gwclient.Client) (*gwclient.Result, error) {
			var err error
			answer, err = r.ask(ctx, g)
			return answer, err
		}, display.Feed(trace...))
	} else {
		res, err = c.Solve(ctx, r.def, r.opt, display.Feed(trace...))
	}
	warnings, displayErr := display.Close()
	if err != nil {
		failures.Print(os.Stderr)
		return err
	}
	if displayErr != nil {
		return fmt.Errorf("show progress: %w", displayErr)
	}
	if display.Text() {
		progress.PrintWarnings(os.Stderr, warnings, r.debug)
		if r.unexported {
			fmt.Fprintln(os.Stderr, "note: the result is in the build cache only: keep it as an image with -t NAME, or write it to a directory with -o DIR")
		}
	}
	if err := r.keep(res.ExporterResponse); err != nil {
		return err
	}
	if r.call != nil {
		return r.call.print(os.Stdout, answer)
	}
	return nil
}

// ask puts the call's question to the frontend.
func (r *request) ask(ctx context.Context, g gwclient.Client) (*gwclient.Result, error) {
	req := gwclient.SolveRequest{Frontend: r.opt.Frontend, FrontendOpt: r.opt.FrontendAttrs}
	if _, ok := req.FrontendOpt["frontend.caps"]; !ok {
		req.FrontendOpt["frontend.caps"] = "moby.buildkit.frontend.subrequests"
	}
	for _, e := range r.opt.CacheImports {
		req.CacheImports = append(req.CacheImports, gwclient.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
	return g.Solve(ctx, req)
}

// openTrace opens the file for all events.
func (r *request) openTrace() ([]func(*client.SolveStatus), error) {
	if r.trace == "" {
		return nil, nil
	}
	f, err := os.OpenFile(r.trace, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--trace: %w", err)
	}
	r.closers = append(r.closers, f)
	enc := json.NewEncoder(f)
	return []func(*client.SolveStatus){func(s *client.SolveStatus) {
		if err := enc.Encode(s); err != nil {
			fmt.Fprintf(os.Stderr, "--trace: %v\n", err)
		}
	}}, nil
}
