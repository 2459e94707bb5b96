package progress

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
)

// PrintWarnings lists warnings: a line each, or with all that is known.
func PrintWarnings(w io.Writer, warnings []client.VertexWarning, detail bool) {
	if len(warnings) == 0 {
		return
	}
	plural, hint := "s", " (use --debug to expand)"
	if len(warnings) == 1 {
		plural = ""
	}
	if detail {
		hint = ""
	}
	fmt.Fprintf(w, "\n %d warning%s found%s:\n", len(warnings), plural, hint)
	for _, v := range warnings {
		fmt.Fprintf(w, " - %s\n", v.Short)
		if detail {
			printDetail(w, v)
		}
	}
	fmt.Fprintln(w)
}

func printDetail(w io.Writer, v client.VertexWarning) {
	for _, d := range v.Detail {
		fmt.Fprintf(w, "%s\n", d)
	}
	if v.URL != "" {
		fmt.Fprintf(w, "More info: %s\n", v.URL)
	}
	if v.SourceInfo != nil && v.Range != nil {
		src := errdefs.Source{Info: v.SourceInfo, Ranges: v.Range}
		_ = src.Print(w) // nobody to tell if standard error does not work
	}
}

// PrintError prints an error below the lines of source that it is about.
func PrintError(w io.Writer, err error, detail bool) {
	var shown [][]byte // a source is often attached on more than one way up
	for _, s := range errdefs.Sources(err) {
		var b bytes.Buffer
		if s.Print(&b) == nil && !slices.ContainsFunc(shown, func(o []byte) bool { return bytes.Equal(o, b.Bytes()) }) {
			shown = append(shown, b.Bytes())
			_, _ = w.Write(b.Bytes())
		}
	}
	if detail {
		fmt.Fprintf(w, "error: %+v\n", err)
		return
	}
	fmt.Fprintf(w, "error: %s\n", grpcPrefix.ReplaceAllString(err.Error(), ""))
}

// grpcPrefix is what gRPC puts before the daemon's own words.
var grpcPrefix = regexp.MustCompile(`(?:[A-Z][A-Za-z]+: )?rpc error: code = [A-Za-z]+ desc = `)
