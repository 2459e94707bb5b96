package image

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/buildd/buildd/cmd/buildctl/connect"
	"github.com/buildd/buildd/cmd/buildctl/format"
	imagesv1 "github.com/buildd/buildd/proto/buildd/images/v1"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// Inspection is all that is known about an image.
type Inspection struct {
	Image
	Manifests []Manifest
}

// Manifest is an image for one platform, or an attestation about one.
type Manifest struct {
	Platform    string `json:",omitempty"`
	Digest      string
	MediaType   string
	Annotations map[string]string `json:",omitempty"`
	Layers      []Layer
	Config      json.RawMessage `json:",omitempty"`
}

// Layer is a layer as its manifest has it.
type Layer struct {
	Digest    digest.Digest
	Size      int64
	MediaType string
}

func inspect(connection *connect.Options) *cobra.Command {
	var form format.Flag
	var text bool
	cmd := &cobra.Command{
		Use: "inspect NAME[:TAG]...", Short: "Show an image's manifests and configurations, as JSON", Args: cobra.MinimumNArgs(1),
		Example: "  buildctl image inspect alpine\n  buildctl image inspect --text alpine\n  buildctl image inspect --format '{{.Digest}}' alpine",
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := form.Template()
		if err != nil {
			return err
		}
		return with(cmd.Context(), connection, func(c *connect.Conn) error {
			all := make([]Inspection, len(args))
			for i, name := range args {
				resp, err := service(c).Get(cmd.Context(), &imagesv1.GetRequest{Name: name})
				if err != nil {
					return explain(c, err)
				}
				if all[i], err = inspection(resp); err != nil {
					return err
				}
			}
			w := cmd.OutOrStdout()
			if text {
				return printText(w, all)
			}
			if t == nil {
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
				return e.Encode(all)
			}
			for _, x := range all {
				if err := t.Print(w, x); err != nil {
					return err
				}
			}
			return nil
		})
	}
	cmd.Flags().BoolVar(&text, "text", false, "show what matters most, for people")
	form.Register(cmd.Flags())
	cmd.MarkFlagsMutuallyExclusive("text", "format")
	return cmd
}

func inspection(resp *imagesv1.GetResponse) (Inspection, error) {
	out := Inspection{Image: imageOf(resp.Image)}
	for _, m := range resp.Manifests {
		x := Manifest{
			Platform: m.Platform, Digest: m.GetTarget().GetDigest(), MediaType: m.GetTarget().GetMediaType(),
			Annotations: m.GetTarget().GetAnnotations(), Config: m.Config,
		}
		var mf ocispecs.Manifest
		if err := json.Unmarshal(m.Manifest, &mf); err != nil {
			return out, fmt.Errorf("read manifest %s: %w", x.Digest, err)
		}
		for _, l := range mf.Layers {
			x.Layers = append(x.Layers, Layer{Digest: l.Digest, Size: l.Size, MediaType: l.MediaType})
		}
		out.Manifests = append(out.Manifests, x)
	}
	return out, nil
}

// printText prints the parts of images that people look for.
func printText(w io.Writer, all []Inspection) error {
	tw := format.Table(w)
	for i, x := range all {
		if i > 0 {
			fmt.Fprintln(tw)
		}
		fmt.Fprintf(tw, "Name:\t%s\nDigest:\t%s\nSize:\t%s\n", x.Name, x.Digest, format.Bytes(x.Size))
		for _, m := range x.Manifests {
			if err := printManifest(tw, m); err != nil {
				return err
			}
		}
	}
	return tw.Flush()
}

func printManifest(w io.Writer, m Manifest) error {
	if m.Platform == "" {
		_, err := fmt.Fprintf(w, "Attestation:\t%s\n", m.Digest)
		return err
	}
	var img dockerspec.DockerOCIImage
	if err := json.Unmarshal(m.Config, &img); err != nil {
		return fmt.Errorf("read configuration of %s: %w", m.Digest, err)
	}
	c := img.Config
	fmt.Fprintf(w, "Platform:\t%s\n  Digest:\t%s\n", m.Platform, m.Digest)
	for _, l := range m.Layers {
		fmt.Fprintf(w, "  Layer:\t%s  %s\n", l.Digest, format.Bytes(l.Size))
	}
	for _, line := range []struct{ name, value string }{
		{"Entrypoint", words(c.Entrypoint)}, {"Cmd", words(c.Cmd)}, {"User", c.User}, {"Workdir", c.WorkingDir}, {"Env", words(c.Env)},
		{"Ports", strings.Join(slices.Sorted(maps.Keys(c.ExposedPorts)), " ")}, {"Volumes", words(slices.Sorted(maps.Keys(c.Volumes)))},
		{"Labels", pairs(c.Labels)}, {"Stop signal", c.StopSignal}, {"Shell", words(c.Shell)}, {"Onbuild", words(c.OnBuild)},
	} {
		if line.value != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", line.name, line.value)
		}
	}
	if h := c.Healthcheck; h != nil {
		fmt.Fprintf(w, "  Healthcheck:\t%s\n", words(h.Test))
	}
	return nil
}

// words joins words so that it shows where one ends.
func words(in []string) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = s
		if s == "" || strings.ContainsAny(s, " \t\n\"\\") {
			out[i] = fmt.Sprintf("%q", s)
		}
	}
	return strings.Join(out, " ")
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return words(out)
}
