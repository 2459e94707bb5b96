package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

type pruneFlags struct {
	filters             []string
	keepFor             time.Duration
	keep, keepMin, free float64 // megabytes
	all, verbose        bool
	form                format.Flag
}

// Prune returns the command that removes what the cache holds.
func Prune(connection *connect.Options) *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove what the build cache holds", Args: cobra.NoArgs,
		Long:    "Remove what the build cache holds and no build uses. Images in the store stay: see buildctl image rm.",
		Example: "  buildctl prune                        # all that nothing uses\n  buildctl prune --keep-duration 48h    # what was not used for two days\n  buildctl prune --keep-storage 10000   # the least recently used above 10 GB",
		RunE:    func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), connection, cmd.OutOrStdout()) },
	}
	set := cmd.Flags()
	set.DurationVar(&f.keepFor, "keep-duration", 0, "keep what was used within this `time`")
	set.Float64Var(&f.keep, "keep-storage", 0, "keep the cache below this size, in `MB`, and remove no more than that needs")
	set.Float64Var(&f.keepMin, "keep-storage-min", 0, "always keep this much, in `MB`")
	set.Float64Var(&f.free, "free-storage", 0, "make this much of the disk free, in `MB`")
	set.StringArrayVarP(&f.filters, "filter", "f", nil, filterHelp)
	set.BoolVar(&f.all, "all", false, "remove internal records too, such as those of frontends")
	set.BoolVarP(&f.verbose, "verbose", "v", false, "show all that is known about each record")
	f.form.Register(set)
	return cmd
}

func (f *pruneFlags) run(ctx context.Context, connection *connect.Options, w io.Writer) (err error) {
	for name, v := range map[string]float64{"keep-storage": f.keep, "keep-storage-min": f.keepMin, "free-storage": f.free} {
		if v < 0 {
			return fmt.Errorf("--%s %g: want a number of megabytes, 0 or more", name, v)
		}
	}
	t, err := f.form.Template()
	if err != nil {
		return err
	}
	conn, err := connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	const mb = 1e6
	opts := []client.PruneOption{client.WithFilter(f.filters), client.WithKeepOpt(f.keepFor, int64(f.keepMin*mb), int64(f.keep*mb), int64(f.free*mb))}
	if f.all {
		opts = append(opts, client.PruneAll)
	}
	removed := make(chan client.UsageInfo)
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		defer close(removed)
		return conn.Prune(ctx, removed, opts...)
	})
	eg.Go(func() error {
		err := f.print(w, t, removed)
		for range removed { // what could not be printed is removed all the same
		}
		return err
	})
	return eg.Wait()
}

func (f *pruneFlags) print(w io.Writer, t *format.Template, removed <-chan client.UsageInfo) error {
	var total int64
	first := true
	for r := range removed {
		total += r.Size
		var err error
		switch {
		case t != nil:
			err = t.Print(w, r)
		case f.verbose:
			err = printVerbose(w, &r)
		default:
			err = printTable(w, first, &r)
		}
		if err != nil {
			return err
		}
		first = false
	}
	if t != nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "Total:\t%s\n", format.Bytes(total))
	return err
}
