package image

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	imagesv1 "github.com/buildd/buildd/proto/buildd/images/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func service(c *connect.Conn) imagesv1.ImagesClient { return imagesv1.NewImagesClient(c.GRPC()) }

// explain says what it means that a daemon does not know the service.
func explain(c *connect.Conn, err error) error {
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("the daemon at %s has no image store to look into: it is not buildd, or an older one", c.Addr)
	}
	return err
}

// Image is an image as it is shown.
type Image struct {
	Name      string
	Digest    string
	MediaType string
	Platforms []string
	Size      int64
	Created   time.Time
	Updated   time.Time
}

func imageOf(i *imagesv1.Image) Image {
	return Image{
		Name: i.Name, Digest: i.GetTarget().GetDigest(), MediaType: i.GetTarget().GetMediaType(), Platforms: i.Platforms, Size: i.Size,
		Created: time.Unix(0, i.CreatedNs).UTC(), Updated: time.Unix(0, i.UpdatedNs).UTC(),
	}
}

func list(connection *connect.Options) *cobra.Command {
	var quiet bool
	var form format.Flag
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images of the store", Args: cobra.NoArgs,
		Example: "  buildctl image ls\n  buildctl image ls -q\n  buildctl image ls --format '{{range .}}{{println .Name .Digest}}{{end}}'",
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := form.Template()
		if err != nil {
			return err
		}
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			resp, err := service(c).List(cmd.Context(), &imagesv1.ListRequest{})
			if err != nil {
				return explain(c, err)
			}
			images := make([]Image, len(resp.Images))
			for i, img := range resp.Images {
				images[i] = imageOf(img)
			}
			w := cmd.OutOrStdout()
			switch {
			case t != nil:
				return t.Print(w, images)
			case quiet:
				return printNames(w, images)
			default:
				return printImages(w, images)
			}
		})
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print full names only")
	form.Register(cmd.Flags())
	return cmd
}

func printNames(w io.Writer, images []Image) error {
	for _, i := range images {
		if _, err := fmt.Fprintln(w, i.Name); err != nil {
			return err
		}
	}
	return nil
}

func printImages(w io.Writer, images []Image) error {
	const shortDigest = 19 // "sha256:" and twelve digits
	tw := format.Table(w)
	fmt.Fprintln(tw, "NAME\tDIGEST\tPLATFORMS\tSIZE\tUPDATED")
	for _, i := range images {
		fmt.Fprintf(tw, "%s\t%.*s\t%s\t%s\t%s\n", i.Name, shortDigest, i.Digest, strings.Join(i.Platforms, ","), format.Bytes(i.Size), i.Updated.Local().Format(time.DateTime))
	}
	return tw.Flush()
}

func remove(connection *connect.Options) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME[:TAG]...", Aliases: []string{"remove"}, Short: "Remove names from the store", Args: cobra.MinimumNArgs(1),
		Long: "Remove names from the store. What no other name or build needs is removed from disk when garbage is collected.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), connection, func(c *connect.Conn) error {
				for _, name := range args {
					if _, err := service(c).Remove(cmd.Context(), &imagesv1.RemoveRequest{Name: name}); err != nil {
						return explain(c, err)
					}
				}
				return nil
			})
		},
	}
}
