package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"

	"github.com/buildd/buildd/cache/digest"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	godigest "github.com/opencontainers/go-digest"
)

// sbomTool is how an SBOM names us among its creators.
const sbomTool = "Tool: buildd"

// withLayerIDs adds to the SBOM of the image itself in which layer each file
// lies, which no scanner can see. An SBOM that cannot be read stays as it is:
// what a scanner writes is not ours to judge.
func (w *writer) withLayerIDs(ctx context.Context, a Attestation, p Platform, c chain, r Request) (Attestation, error) {
	if a.Kind != gatewaypb.AttestationKind_InToto || a.PredicateType != predicateSPDX || !a.isCore() || p.Tree == "" {
		return a, nil
	}
	data, err := a.predicate(ctx, w.trees, r)
	if err != nil {
		return a, err
	}
	// Decoded without a model, so that fields of newer SPDX versions survive.
	doc := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if dec.Decode(&doc) != nil {
		return a, nil
	}
	v, err := files(ctx, w.trees, r, p.Tree)
	if err != nil {
		return a, err
	}
	layerOf := layerFinder(v.Layers(), c)
	addLayerIDs(doc["files"], layerOf)
	packages, _ := doc["packages"].([]any)
	for _, pkg := range packages {
		if pkg, ok := pkg.(map[string]any); ok {
			addLayerIDs(pkg["files"], layerOf)
		}
	}
	addCreator(doc)
	if data, err = json.Marshal(doc); err != nil {
		return a, fmt.Errorf("encode SBOM: %w", err)
	}
	a.Content = func(context.Context) ([]byte, error) { return data, nil }
	return a, nil
}

// layerFinder returns a function that names the topmost layer that made a file,
// be it removed again later; "" for none.
func layerFinder(layers []digest.Layer, c chain) func(name string) godigest.Digest {
	return func(name string) godigest.Digest {
		name = path.Join("/", name)[1:]
		for i := len(layers) - 1; i >= 0 && len(layers) == len(c.descs); i-- {
			if e, ok := layers[i].Index.Lookup(name); ok && !e.Whiteout {
				return c.descs[i].Digest
			}
		}
		return ""
	}
}

// addLayerIDs comments each file of an SPDX list that has no comment yet.
func addLayerIDs(list any, layerOf func(string) godigest.Digest) {
	items, _ := list.([]any)
	for _, item := range items {
		file, ok := item.(map[string]any)
		if !ok {
			continue
		}
		if comment, _ := file["comment"].(string); comment != "" {
			continue
		}
		name, _ := file["fileName"].(string)
		if dgst := layerOf(name); name != "" && dgst != "" {
			file["comment"] = "layerID: " + dgst.String()
		}
	}
}

func addCreator(doc map[string]any) {
	info, ok := doc["creationInfo"].(map[string]any)
	if !ok {
		info = map[string]any{}
		doc["creationInfo"] = info
	}
	creators, _ := info["creators"].([]any)
	info["creators"] = append(creators, sbomTool)
}
