package dockerfile

import (
	"encoding/json"
	"errors"
	"strings"

	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

// cacheImports are the caches to import from: those of the option cache-imports, then the images of cache-from.
func (p *optionParser) cacheImports() []gwclient.CacheOptionsEntry {
	out := parse(p, optCacheImports, "a JSON array of objects with Type and Attrs", func(v string) (list []gwclient.CacheOptionsEntry, err error) {
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.Type == "" {
				return nil, errors.New("an entry has no Type")
			}
		}
		return list, nil
	})
	for ref := range strings.SplitSeq(p.raw[optCacheFrom], ",") {
		if ref != "" {
			out = append(out, gwclient.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
	}
	return out
}
