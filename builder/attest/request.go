package attest

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"

	"github.com/buildd/buildd/frontend/dockerfile/gitref"
	"github.com/moby/buildkit/solver/pb"
)

// Request is what a frontend is called with.
type Request struct {
	Frontend string
	Args     map[string]string
	Inputs   map[string]*pb.Definition
}

func (r *Request) empty() bool {
	return r == nil || (r.Frontend == "" && len(r.Args) == 0 && len(r.Inputs) == 0)
}

// local is the client's directory that a Dockerfile's build context is, "" if it
// is none or the frontend is another. It belongs to the request even if no step
// reads it.
func (r *Request) local() string {
	if r.Frontend != "dockerfile.v0" || r.Args[contextKey(r.Args, true)] != "" || r.Inputs["context"] != nil {
		return ""
	}
	return "context"
}

// Parameters are a request as provenance tells it. Values of this type are not
// changed once they are made.
type Parameters struct {
	Frontend             string                 `json:"frontend,omitempty"`
	Args                 map[string]string      `json:"args,omitempty"`
	Secrets              []Use                  `json:"secrets,omitempty"`
	SSH                  []Use                  `json:"ssh,omitempty"`
	Locals               []Local                `json:"locals,omitempty"`
	Inputs               map[string]*Invocation `json:"inputs,omitempty"`
	Root                 *Invocation            `json:"root,omitempty"`
	CompatibilityVersion int                    `json:"compatibilityVersion,omitempty"`
}

// Local is a directory of the client.
type Local struct {
	Name string `json:"name"`
}

// Invocation is a request together with where its definition came from.
type Invocation struct {
	ConfigSource ConfigSource `json:"configSource"`
	Request      *Parameters  `json:"request,omitempty"`
}

// ConfigSource is where a Dockerfile came from.
type ConfigSource struct {
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
	Path   string            `json:"path,omitempty"`
}

// equal compares what would be written.
func (i *Invocation) equal(o *Invocation) bool {
	a, errA := json.Marshal(i)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// ofTheHost are options that say nothing of what is built.
var ofTheHost = map[string]bool{"cgroup-parent": true, "image-resolve-mode": true, "platform": true, "cache-imports": true}

// published returns the options that provenance tells, without credentials.
func published(args map[string]string) map[string]string {
	key := contextKey(args, false)
	out := map[string]string{}
	for k, v := range args {
		if ofTheHost[k] || strings.HasPrefix(k, "attest:") {
			continue
		}
		if k == key || k == "vcs:source" || strings.HasPrefix(k, "context:") {
			v = redact(v)
		}
		out[k] = v
	}
	return out
}

// contextKey is the option that names the build context.
func contextKey(args map[string]string, orInput bool) string {
	if k := args["contextkey"]; k != "" {
		return k
	}
	if orInput && args["input:context"] != "" {
		return "input:context"
	}
	return "context"
}

// invocation tells a request whose options were published.
func invocation(frontend string, args map[string]string, s sources) *Invocation {
	args = maps.Clone(args)
	out := &Invocation{Request: &Parameters{Frontend: frontend}}
	key := contextKey(args, true)
	if v := args[key]; v != "" {
		out.ConfigSource = s.config(v)
		delete(args, key)
	}
	if v := args["filename"]; v != "" {
		out.ConfigSource.Path = v
		delete(args, "filename")
	}
	if len(args) > 0 {
		out.Request.Args = args
	}
	return out
}

// config says what a build context's URL was found to hold.
func (s *sources) config(url string) ConfigSource {
	repo, shown := url, url
	if ref, ok, err := gitref.Parse(url); ok && err == nil {
		repo, shown = ref.Remote, ref.Remote
		if ref.Ref != "" {
			repo += "#" + ref.Ref
		}
		if ref.Ref != "" || ref.SubDir != "" {
			shown += "#" + ref.Ref
		}
		if ref.SubDir != "" {
			shown += ":" + ref.SubDir
		}
	}
	for _, g := range s.git {
		if g.URL == repo {
			return ConfigSource{URI: redact(shown), Digest: commitDigest(g.Commit)}
		}
	}
	for _, h := range s.http {
		if h.URL == url {
			return ConfigSource{URI: h.URL, Digest: digestSet(h.Digest)}
		}
	}
	return ConfigSource{URI: redact(url)}
}

// split takes what options say about the repository of the build context out of
// args.
func split(args map[string]string) (rest, vcs map[string]string) {
	for k, v := range args {
		name, ok := strings.CutPrefix(k, "vcs:")
		if !ok {
			if rest == nil {
				rest = map[string]string{}
			}
			rest[k] = v
			continue
		}
		if v == "" {
			continue
		}
		if vcs == nil {
			vcs = map[string]string{}
		}
		vcs[name] = v
	}
	return rest, vcs
}

// minimal leaves out what may be secret, and tells whether that was anything.
func (p Parameters) minimal() (Parameters, bool) {
	left := false
	args := map[string]string{}
	for k, v := range p.Args {
		if strings.HasPrefix(k, "build-arg:") || strings.HasPrefix(k, "label:") {
			left = true
			continue
		}
		args[k] = v
	}
	p.Args, p.Secrets, p.SSH = args, nil, nil
	less := func(i *Invocation) *Invocation {
		if i == nil || i.Request == nil {
			return i
		}
		r, some := i.Request.minimal()
		left = left || some
		return &Invocation{ConfigSource: i.ConfigSource, Request: &r}
	}
	inputs := map[string]*Invocation{}
	for k, i := range p.Inputs {
		inputs[k] = less(i)
	}
	p.Inputs, p.Root = inputs, less(p.Root)
	return p, left
}
