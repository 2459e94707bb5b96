package option

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/console"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session/filesync"
)

const (
	attrName = "name"
	attrPush = "push"
	attrDest = "dest"
	attrTar  = "tar"

	// cacheOnly is an output that is none: the result stays in the cache.
	cacheOnly = "cacheonly"
)

// exporters are the types of outputs, as an error lists them.
const exporters = "image, registry, local, tar, oci, docker or cacheonly"

// Outputs reads the values of --output. docker makes an output "type=docker"
// without destination mean the daemon's own image store.
func Outputs(values []string, docker bool) ([]client.ExportEntry, error) {
	var out []client.ExportEntry
	stdout := false
	for _, s := range values {
		e, err := output(s, docker)
		if err != nil {
			return nil, err
		}
		if e.Type == cacheOnly {
			continue
		}
		if dest := e.Attrs[attrDest]; files(e) && (dest == "" || dest == "-") {
			if stdout {
				return nil, fmt.Errorf("%q: another output goes to standard output already: name a file with dest=FILE", s)
			}
			stdout = true
		}
		if err := open(&e, s); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Stdout tells whether one of the outputs goes to standard output.
func Stdout(values []string) bool {
	for _, s := range values {
		if e, err := output(s, true); err == nil && files(e) && (e.Attrs[attrDest] == "" || e.Attrs[attrDest] == "-") {
			return true
		}
	}
	return false
}

func output(s string, docker bool) (client.ExportEntry, error) {
	e := client.ExportEntry{Attrs: map[string]string{}}
	if !strings.Contains(s, "=") && !strings.Contains(s, ",") { // docker's short form
		switch s {
		case "":
			return e, fmt.Errorf("%q: want a directory, - or type=TYPE,...", s)
		case "-":
			e.Type, e.Attrs[attrDest] = client.ExporterTar, "-"
		default:
			e.Type, e.Attrs[attrDest] = client.ExporterLocal, s
		}
		return e, nil
	}
	var err error
	if e.Type, e.Attrs, err = typed(s); err != nil {
		return e, err
	}
	if v, ok := e.Attrs["output"]; ok {
		return e, fmt.Errorf("%q: output=%s is not known: want dest=%s", s, v, v)
	}
	switch e.Type {
	case client.ExporterImage, client.ExporterLocal, client.ExporterTar, client.ExporterOCI:
	case client.ExporterDocker:
		if docker && e.Attrs[attrDest] == "" {
			e.Type = client.ExporterImage
		}
	case "registry":
		e.Type = client.ExporterImage
		if _, ok := e.Attrs[attrPush]; !ok {
			e.Attrs[attrPush] = "true"
		}
	case cacheOnly:
	case "":
		return e, fmt.Errorf("%q: has no type: want type=TYPE,..., the type being %s", s, exporters)
	default:
		return e, fmt.Errorf("%q: type %q is not known: want %s", s, e.Type, exporters)
	}
	return e, nil
}

// files tells whether an output is one file.
func files(e client.ExportEntry) bool {
	switch e.Type {
	case client.ExporterTar:
		return true
	case client.ExporterOCI, client.ExporterDocker:
		tar, err := strconv.ParseBool(e.Attrs[attrTar])
		return err != nil || tar
	default:
		return false
	}
}

// open prepares the place that an output goes to.
func open(e *client.ExportEntry, s string) error {
	dest := e.Attrs[attrDest]
	switch {
	case files(*e):
		f, err := destination(dest)
		if err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		e.Output = f
	case e.Type == client.ExporterLocal, e.Type == client.ExporterOCI, e.Type == client.ExporterDocker:
		if dest == "" || dest == "-" {
			return fmt.Errorf("%q: want a directory: dest=DIR", s)
		}
		if fi, err := os.Stat(dest); err == nil && !fi.IsDir() {
			return fmt.Errorf("%q: %s is not a directory: want one, or another type", s, dest)
		}
		e.OutputDir = dest
	case dest != "":
		return fmt.Errorf("%q: dest=%s has no meaning: type %s is not written to a file; want type=oci, docker, tar or local", s, dest, e.Type)
	}
	delete(e.Attrs, attrDest)
	return nil
}

// destination returns what opens a file when its first byte comes: a build that
// fails leaves a file of that name alone.
func destination(dest string) (filesync.FileOutputFunc, error) {
	if dest == "" || dest == "-" {
		if _, err := console.ConsoleFromFile(os.Stdout); err == nil {
			return nil, errors.New("standard output is a terminal: want dest=FILE, or redirect it")
		}
		return func(map[string]string) (io.WriteCloser, error) { return os.Stdout, nil }, nil
	}
	if fi, err := os.Stat(dest); err == nil && fi.IsDir() {
		return nil, fmt.Errorf("%s is a directory: want a file", dest)
	}
	return func(map[string]string) (io.WriteCloser, error) {
		f, err := os.Create(dest)
		if err != nil {
			return nil, fmt.Errorf("create output: %w", err)
		}
		return f, nil
	}, nil
}

// IsImage tells whether an output is an image, which has names and annotations.
func IsImage(e client.ExportEntry) bool {
	return e.Type == client.ExporterImage || e.Type == client.ExporterOCI || e.Type == client.ExporterDocker
}

// Name gives images among outputs their names.
func Name(outputs []client.ExportEntry, names []string) {
	if len(names) == 0 {
		return
	}
	for _, e := range outputs {
		if IsImage(e) {
			e.Attrs[attrName] = strings.Join(names, ",")
		}
	}
}

// Push makes the images among outputs go to their registry, or adds such an
// output.
func Push(outputs []client.ExportEntry) []client.ExportEntry {
	found := false
	for _, e := range outputs {
		if e.Type == client.ExporterImage {
			e.Attrs[attrPush], found = "true", true
		}
	}
	if !found {
		outputs = append(outputs, client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{attrPush: "true"}})
	}
	return outputs
}

// Load makes the image go into the daemon's store, if it does not already.
func Load(outputs []client.ExportEntry) []client.ExportEntry {
	for _, e := range outputs {
		if e.Type == client.ExporterImage {
			return outputs
		}
	}
	return append(outputs, client.ExportEntry{Type: client.ExporterImage, Attrs: map[string]string{}})
}

// CheckPush refuses an image that goes to a registry without a name.
func CheckPush(outputs []client.ExportEntry) error {
	for _, e := range outputs {
		if push, _ := strconv.ParseBool(e.Attrs[attrPush]); push && e.Attrs[attrName] == "" {
			return errors.New("the image goes to a registry but has no name: add -t NAME:TAG, or name=NAME:TAG to its --output")
		}
	}
	return nil
}
