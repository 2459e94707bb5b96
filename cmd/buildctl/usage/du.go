package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
)

const filterHelp = "`filter` for records, such as type==regular, id~=prefix or until=24h; several are alternatives"

// Du returns the command that lists what the cache holds.
func Du(connection *connect.Options) *cobra.Command {
	var (
		filters []string
		verbose bool
		form    format.Flag
	)
	cmd := &cobra.Command{
		Use: "du", Short: "Show what the build cache holds", Args: cobra.NoArgs,
		Example: "  buildctl du\n  buildctl du --verbose --filter type==exec.cachemount\n  buildctl du --format '{{range .}}{{println .ID .Size}}{{end}}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return du(cmd.Context(), connection, cmd.OutOrStdout(), filters, verbose, form)
		},
	}
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, filterHelp)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show all that is known about each record")
	form.Register(cmd.Flags())
	return cmd
}

func du(ctx context.Context, connection *connect.Options, w io.Writer, filters []string, verbose bool, form format.Flag) (err error) {
	t, err := form.Template()
	if err != nil {
		return err
	}
	conn, err := connection.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	records, err := conn.DiskUsage(ctx, client.WithFilter(filters))
	if err != nil {
		return err
	}
	if t != nil {
		return t.Print(w, records)
	}
	if verbose {
		err = printVerbose(w, records...)
	} else {
		err = printTable(w, true, records...)
	}
	if err != nil || len(filters) > 0 {
		return err
	}
	return printSummary(w, records)
}

func printTable(w io.Writer, header bool, records ...*client.UsageInfo) error {
	tw := format.Table(w)
	if header {
		fmt.Fprintf(tw, "%-71s\t%-11s\t%-8s\tLAST ACCESSED\n", "ID", "RECLAIMABLE", "SIZE")
	}
	for _, r := range records {
		id, size, last := r.ID, format.Bytes(r.Size), ""
		if r.Mutable {
			id += "*"
		}
		if r.Shared {
			size += "*"
		}
		if r.LastUsedAt != nil {
			last = ago(*r.LastUsedAt)
		}
		fmt.Fprintf(tw, "%-71s\t%-11v\t%-8s\t%s\n", id, !r.InUse, size, last)
	}
	return tw.Flush()
}

func printVerbose(w io.Writer, records ...*client.UsageInfo) error {
	tw := format.Table(w)
	line := func(k string, v any) { fmt.Fprintf(tw, "%s:\t%v\n", k, v) }
	for _, r := range records {
		line("ID", r.ID)
		if len(r.Parents) > 0 {
			line("Parents", strings.Join(r.Parents, ";"))
		}
		line("Created at", r.CreatedAt)
		line("Mutable", r.Mutable)
		line("Reclaimable", !r.InUse)
		line("Shared", r.Shared)
		line("Size", format.Bytes(r.Size))
		if r.Description != "" {
			line("Description", r.Description)
		}
		line("Usage count", r.UsageCount)
		if r.LastUsedAt != nil {
			line("Last used", *r.LastUsedAt)
		}
		if r.RecordType != "" {
			line("Type", r.RecordType)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func printSummary(w io.Writer, records []*client.UsageInfo) error {
	var total, reclaimable, shared int64
	for _, r := range records {
		total += r.Size
		if !r.InUse {
			reclaimable += r.Size
		}
		if r.Shared {
			shared += r.Size
		}
	}
	tw := format.Table(w)
	if shared > 0 {
		fmt.Fprintf(tw, "Shared:\t%s\nPrivate:\t%s\n", format.Bytes(shared), format.Bytes(total-shared))
	}
	fmt.Fprintf(tw, "Reclaimable:\t%s\nTotal:\t%s\n", format.Bytes(reclaimable), format.Bytes(total))
	return tw.Flush()
}

// ago says how long ago t was.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return "seconds ago"
	case d < time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}
