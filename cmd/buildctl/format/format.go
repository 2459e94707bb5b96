// Package format writes what commands print: by a Go template that the user
// gives with --format, or as a table.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"text/template"

	"github.com/spf13/pflag"
)

// Flag is --format.
type Flag struct{ text string }

// Register adds the flag to set.
func (f *Flag) Register(set *pflag.FlagSet) {
	set.StringVar(&f.text, "format", "", "Go `template` of the output, such as '{{json .}}', or json")
}

// Template returns what the flag says; nil if it was not given.
func (f *Flag) Template() (*Template, error) {
	text := f.text
	switch text {
	case "":
		return nil, nil
	case "json":
		text = "{{json .}}"
	}
	t, err := template.New("format").Funcs(template.FuncMap{"json": toJSON}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format %q: %w", f.text, err)
	}
	return &Template{t}, nil
}

// Template prints values.
type Template struct{ t *template.Template }

// Print prints v and ends the line.
func (t *Template) Print(w io.Writer, v any) error {
	var b bytes.Buffer
	if err := t.t.Execute(&b, v); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(b.Bytes())), nil
}

// Table returns a writer that lines up columns parted by tabs once it is flushed.
func Table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 1, 8, 2, ' ', 0) }

// Bytes returns a size for people.
func Bytes(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/unit, 0
	for ; f >= unit && i < 5; i++ {
		f /= unit
	}
	return fmt.Sprintf("%.2f%cB", f, "kMGTPE"[i])
}
