package remotecache

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/session"
)

// Exporter exports the cache of one build to one place.
type Exporter struct {
	// Type is what the Set was asked for, such as "registry".
	Type string
	// IgnoreError says that the build succeeds even if the export fails.
	IgnoreError bool
	// Warning is what is odd about the attributes; "" if nothing is.
	Warning string

	s           *Set
	store       store
	max         bool
	compression layer.Compression
	oci         bool
}

// Request is what there is to export.
type Request struct {
	// Steps are those that the results came of.
	Steps []*solver.Known
	// Results are the trees that the build ends in.
	Results  []cache.Tree
	Client   session.Client
	Provider tree.Provider
	// Step reports that a part of the work begins; done says that it ended.
	Step func(id string) (done func(error))
}

// Exporter makes the exporter that a client asked for.
func (s *Set) Exporter(typ string, m map[string]string) (*Exporter, error) {
	e, err := s.exporter(typ, newAttrs(m))
	if err != nil {
		return nil, fmt.Errorf("cache export type=%s: %w", typ, err)
	}
	return e, nil
}

func (s *Set) exporter(typ string, a attrs) (*Exporter, error) {
	k, err := s.kind(typ)
	if err != nil {
		return nil, err
	}
	e := &Exporter{Type: typ, s: s}
	switch mode, _ := a.take("mode"); mode {
	case "", "min":
	case "max":
		e.max = true
	default:
		return nil, fmt.Errorf("attribute mode: %q is no mode: want min or max", mode)
	}
	if e.IgnoreError, err = a.flag("ignore-error", false); err != nil {
		return nil, err
	}
	if e.compression, err = a.compression(); err != nil {
		return nil, err
	}
	if v, ok := a["oci-mediatypes"]; ok && v != "" {
		if e.oci, err = (attrs{"oci-mediatypes": v}).flag("oci-mediatypes", true); err != nil {
			return nil, err
		}
	} else {
		e.oci = true
	}
	if e.store, err = k.exporter(a); err != nil {
		return nil, err
	}
	e.Warning = a.unknown()
	return e, nil
}

// Name is what progress calls the export.
func (e *Exporter) Name() string { return e.store.name() }

// Inline tells whether the cache goes into the image. Then Export does nothing.
func (e *Exporter) Inline() bool { return e.Type == TypeInline }

// Export exports the cache and returns what the client is told.
func (e *Exporter) Export(ctx context.Context, r Request) (map[string]string, error) {
	steps, err := e.steps(r)
	if err != nil {
		return nil, err
	}
	done := r.Step("preparing build cache for export")
	d, blobs, err := remote.Make(ctx, remote.Config{
		Layers: e.s.c.Trees, Store: e.s.c.Blobs, Provider: r.Provider,
		Options: tree.BlobOptions{Compression: e.compression, OCI: e.oci},
	}, steps)
	done(err)
	if err != nil {
		return nil, err
	}
	if len(blobs) == 0 {
		r.Step("skipping cache export for empty result")(nil)
		return nil, nil
	}
	return e.store.write(ctx, r.Client, d, blobs, r.Step)
}

// steps returns what is exported of the steps: with mode=min only trees whose
// layers are in the results.
func (e *Exporter) steps(r Request) ([]remote.Step, error) {
	if e.max {
		return remoteSteps(r.Steps, func(cache.Tree) bool { return true }), nil
	}
	kept := map[cache.LayerID]bool{}
	for _, t := range r.Results {
		infos, err := e.s.c.Trees.Layers(t)
		if err != nil {
			return nil, fmt.Errorf("list layers of the result: %w", err)
		}
		for _, i := range infos {
			kept[i.ID] = true
		}
	}
	return remoteSteps(r.Steps, func(t cache.Tree) bool {
		infos, err := e.s.c.Trees.Layers(t)
		for _, i := range infos {
			if !kept[i.ID] {
				return false
			}
		}
		return err == nil
	}), nil
}
