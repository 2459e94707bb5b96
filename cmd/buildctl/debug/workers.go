package debug

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func workers(connection *connect.Options) *cobra.Command {
	var (
		filters []string
		verbose bool
		form    format.Flag
	)
	cmd := &cobra.Command{Use: "workers", Short: "List what runs steps", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := form.Template()
		if err != nil {
			return err
		}
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			ws, err := c.ListWorkers(cmd.Context(), client.WithFilter(filters))
			switch {
			case err != nil:
				return err
			case t != nil:
				return t.Print(cmd.OutOrStdout(), ws)
			case verbose:
				return printWorkersVerbose(cmd.OutOrStdout(), ws)
			default:
				return printWorkers(cmd.OutOrStdout(), ws)
			}
		})
	}
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "`filter` for workers, such as id==ID or labels.KEY==VALUE")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show all that is known about each worker")
	form.Register(cmd.Flags())
	return cmd
}

func printWorkers(w io.Writer, ws []*client.WorkerInfo) error {
	tw := format.Table(w)
	fmt.Fprintln(tw, "ID\tPLATFORMS")
	for _, v := range ws {
		fmt.Fprintf(tw, "%s\t%s\n", v.ID, join(v.Platforms))
	}
	return tw.Flush()
}

func printWorkersVerbose(w io.Writer, ws []*client.WorkerInfo) error {
	tw := format.Table(w)
	for _, v := range ws {
		fmt.Fprintf(tw, "ID:\t%s\nPlatforms:\t%s\n", v.ID, join(v.Platforms))
		b := v.BuildkitVersion
		fmt.Fprintf(tw, "BuildKit:\t%s %s %s\n", b.Package, b.Version, b.Revision)
		if b.DockerfileVersion != "" {
			fmt.Fprintf(tw, "Dockerfile:\t%s\n", b.DockerfileVersion)
		}
		fmt.Fprintln(tw, "Labels:")
		for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
			fmt.Fprintf(tw, "\t%s:\t%s\n", k, v.Labels[k])
		}
		printDevices(tw, v)
		for i, r := range v.GCPolicy {
			printPolicy(tw, i, r)
		}
		fmt.Fprintln(tw)
	}
	return tw.Flush()
}

func printDevices(w io.Writer, v *client.WorkerInfo) {
	if len(v.CDIDevices) == 0 {
		return
	}
	fmt.Fprintln(w, "Devices:")
	for _, d := range v.CDIDevices {
		fmt.Fprintf(w, "\tName:\t%s\n", d.Name)
		if d.OnDemand {
			fmt.Fprintf(w, "\tOnDemand:\t%v\n", d.OnDemand)
		} else {
			fmt.Fprintf(w, "\tAutoAllow:\t%v\n", d.AutoAllow)
		}
		for _, k := range slices.Sorted(maps.Keys(d.Annotations)) {
			fmt.Fprintf(w, "\tAnnotations:\t%s:\t%s\n", k, d.Annotations[k])
		}
	}
}

func printPolicy(w io.Writer, i int, r client.PruneInfo) {
	fmt.Fprintf(w, "GC Policy rule#%d:\n\tAll:\t%v\n", i, r.All)
	if len(r.Filter) > 0 {
		fmt.Fprintf(w, "\tFilters:\t%s\n", strings.Join(r.Filter, " "))
	}
	if r.KeepDuration > 0 {
		fmt.Fprintf(w, "\tKeep duration:\t%v\n", r.KeepDuration)
	}
	for _, b := range []struct {
		name string
		n    int64
	}{{"Reserved space", r.ReservedSpace}, {"Minimum free space", r.MinFreeSpace}, {"Maximum used space", r.MaxUsedSpace}} {
		if b.n > 0 {
			fmt.Fprintf(w, "\t%s:\t%s\n", b.name, format.Bytes(b.n))
		}
	}
}

func join(ps []ocispecs.Platform) string {
	out := make([]string, len(ps))
	for i, p := range ps {
		out[i] = platforms.Format(platforms.Normalize(p))
	}
	return strings.Join(out, ",")
}
