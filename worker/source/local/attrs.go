package local

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
)

// request is a local:// source op, read.
type request struct {
	name     string // what the client calls the directory
	session  string // "" is any of the build's
	includes []string
	excludes []string
	follow   []string
	keyHint  string
	// full asks for every file again (local.differ=none).
	full bool
	// metadataOnly wants a list of all files, and the bytes of those only that
	// one of exceptions matches.
	metadataOnly bool
	exceptions   []string
}

func parse(r source.Request) (request, error) {
	out := request{name: r.Ref()}
	if out.name == "" {
		return out, fmt.Errorf("source %s: it has no name: want local://NAME", r.Identifier)
	}
	for k, v := range r.Attrs {
		var err error
		switch k {
		case pb.AttrLocalSessionID:
			out.session = v
			// Builds that share a session keep their directories apart by a prefix.
			if prefix, id, ok := strings.Cut(v, ":"); ok {
				out.name, out.session = prefix+"-"+out.name, id
			}
		case pb.AttrIncludePatterns:
			err = json.Unmarshal([]byte(v), &out.includes)
		case pb.AttrExcludePatterns:
			err = json.Unmarshal([]byte(v), &out.excludes)
		case pb.AttrFollowPaths:
			err = json.Unmarshal([]byte(v), &out.follow)
		case pb.AttrMetadataTransferExclude:
			err = json.Unmarshal([]byte(v), &out.exceptions)
		case pb.AttrMetadataTransfer:
			out.metadataOnly, err = strconv.ParseBool(v)
		case pb.AttrSharedKeyHint:
			out.keyHint = v
		case pb.AttrLocalDiffer:
			switch v {
			case "", pb.AttrLocalDifferMetadata:
			case pb.AttrLocalDifferNone:
				out.full = true
			default:
				err = fmt.Errorf("want %s or %s", pb.AttrLocalDifferNone, pb.AttrLocalDifferMetadata)
			}
		}
		if err != nil {
			return out, fmt.Errorf("source %s: %s %q: %w", r.Identifier, k, v, err)
		}
	}
	return out, nil
}

// family names the transfers whose files may serve each other: those of one
// directory of one client.
func (r request) family(sharedKey string) string {
	return cache.Hash("local directory", []byte(r.name), []byte(r.keyHint), []byte(sharedKey)).String()[:32]
}

// variant names which part of the directory is wanted.
func (r request) variant() string {
	b, _ := json.Marshal([]any{r.includes, r.excludes, r.follow, r.metadataOnly, r.exceptions}) // strings and a bool always marshal
	return cache.Hash("local part", b).String()[:16]
}
