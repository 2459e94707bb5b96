package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/buildd/buildd/cmd/buildctl/archive"
	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// importFlags are what the command line says.
type importFlags struct {
	changes                         []string
	config, platform, message, mode string
}

func importCommand(connection *connect.Options) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use: "import [flags] NAME[:TAG] ROOTFS", Short: "Make an image of a root file system",
		Long: "Make an image of one layer of a root file system: a tar archive (plain or compressed),\n" +
			"a directory, or - for an archive on standard input. Owners, modes, times, links, devices\n" +
			"and extended attributes are kept. The image's time is that of the archive or directory,\n" +
			"or $SOURCE_DATE_EPOCH.",
		Example: "  buildctl image import debian:bookworm rootfs.tar\n" +
			"  mmdebstrap --variant=minbase bookworm | buildctl image import debian:bookworm -\n" +
			"  buildctl image import --change 'CMD [\"sh\"]' --change 'ENV LANG=C.UTF-8' busybox root/",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.run(cmd.Context(), connection, args[0], args[1])
		},
	}
	set := cmd.Flags()
	set.StringArrayVarP(&f.changes, "change", "c", nil, "Dockerfile `instruction` for the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR")
	set.StringVar(&f.config, "config", "", "JSON `file` with the image's configuration, in OCI's or docker's form")
	set.StringVar(&f.platform, "platform", "", "`platform` of the image (default: this machine's)")
	set.StringVarP(&f.message, "message", "m", "", "`comment` in the image's history")
	progressFlag(cmd, &f.mode)
	return cmd
}

func (f *importFlags) run(ctx context.Context, connection *connect.Options, name, from string) error {
	full, err := fullName(name)
	if err != nil {
		return err
	}
	img, err := f.image()
	if err != nil {
		return err
	}
	files, changed, err := rootFS(ctx, from)
	if err != nil {
		return err
	}
	defer files.Close()
	comment := f.message
	if comment == "" {
		comment = "imported from " + filepath.Base(from)
	}
	img.Created = &changed
	img.History = []ocispecs.History{{Created: &changed, Comment: comment, CreatedBy: "buildctl image import"}}
	return with(ctx, connection, func(c *connect.Conn) error {
		up := uploadprovider.New()
		url := up.Add(files)
		opt := client.SolveOpt{
			Session: []session.Attachable{up},
			Exports: []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{"name": full}}},
		}
		_, err := solve(ctx, c, f.mode, opt, func(ctx context.Context, g gwclient.Client) (*gwclient.Result, error) {
			return unpack(ctx, g, url, img)
		})
		return err
	})
}

// unpack builds the image from an archive that the client uploads.
func unpack(ctx context.Context, g gwclient.Client, url string, img dockerspec.DockerOCIImage) (*gwclient.Result, error) {
	const file = "rootfs.tar"
	tar := llb.HTTP(url, llb.Filename(file), llb.WithCustomName("[1/2] receive "+file))
	st := llb.Scratch().Platform(img.Platform).File(
		llb.Copy(tar, "/"+file, "/", &llb.CopyInfo{AttemptUnpack: true}), llb.WithCustomName("[2/2] unpack "+file))
	def, err := st.Marshal(ctx, llb.Platform(img.Platform))
	if err != nil {
		return nil, err
	}
	res, err := g.Solve(ctx, gwclient.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(img)
	if err != nil {
		return nil, err
	}
	res.AddMeta(exptypes.ExporterImageConfigKey, config)
	return res, nil
}

// image returns the configuration that the flags ask for.
func (f *importFlags) image() (dockerspec.DockerOCIImage, error) {
	var img dockerspec.DockerOCIImage
	if f.config != "" {
		b, err := os.ReadFile(f.config)
		if err != nil {
			return img, fmt.Errorf("--config: %w", err)
		}
		if err := json.Unmarshal(b, &img); err != nil {
			return img, fmt.Errorf("--config %s: %w: want the configuration of an image as JSON", f.config, err)
		}
	}
	switch {
	case f.platform != "":
		p, err := platforms.Parse(f.platform)
		if err != nil {
			return img, fmt.Errorf("--platform %q: %w: want OS/ARCHITECTURE[/VARIANT], such as linux/arm64", f.platform, err)
		}
		img.Platform = platforms.Normalize(p)
	case img.OS == "" || img.Architecture == "":
		p := platforms.Normalize(platforms.DefaultSpec())
		img.Platform = ocispecs.Platform{OS: "linux", Architecture: p.Architecture}
		if p.Architecture == "arm" {
			img.Variant = p.Variant
		}
	}
	img.RootFS = ocispecs.RootFS{Type: "layers"} // the exporter knows its layers
	return img, change(&img, f.changes)
}

// rootFS opens a root file system as an archive and says when it was made.
func rootFS(ctx context.Context, from string) (io.ReadCloser, time.Time, error) {
	made := time.Now()
	in := os.Stdin
	if from != "-" {
		fi, err := os.Stat(from)
		if err != nil {
			return nil, made, fmt.Errorf("root file system: %w: want a tar archive, a directory or -", err)
		}
		made = fi.ModTime()
		if fi.IsDir() {
			made, err = epoch(made)
			return archive.Directory(ctx, from), made, err
		}
		if in, err = os.Open(from); err != nil {
			return nil, made, fmt.Errorf("root file system: %w", err)
		}
	}
	r := bufio.NewReaderSize(in, max(archive.Header, 1<<16))
	is, err := archive.Is(r)
	if err == nil && !is {
		err = errors.New("it is no tar archive")
	}
	if err == nil {
		made, err = epoch(made)
	}
	if err != nil {
		in.Close()
		return nil, made, fmt.Errorf("root file system %s: %w", from, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{r, in}, made, nil
}

// epoch returns $SOURCE_DATE_EPOCH, or else t.
func epoch(t time.Time) (time.Time, error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return t.UTC(), nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return t, fmt.Errorf("$SOURCE_DATE_EPOCH %q: want seconds since 1970", v)
	}
	return time.Unix(n, 0).UTC(), nil
}
