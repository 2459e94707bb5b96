package attest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// Capture is what is known of one reference of a build's result.
type Capture struct {
	sources
	secrets, ssh []Use
	network      bool   // a step could reach the network
	platform     string // that the result is for, "" if it does not say
	request      Parameters
	context      string // the client's directory that is the build context, "" for none

	def  *pb.Definition
	edge solver.Edge
}

// Use is a secret or an SSH agent that steps could ask for.
type Use struct {
	ID       string `json:"id"`
	Optional bool   `json:"optional,omitempty"`
}

// addUse adds u. What one step cannot do without is not optional.
func addUse(list []Use, u Use) []Use {
	if i := slices.IndexFunc(list, func(o Use) bool { return o.ID == u.ID }); i >= 0 {
		list[i].Optional = list[i].Optional && u.Optional
		return list
	}
	return append(list, u)
}

func (c *Capture) addSecret(u Use) { c.secrets = addUse(c.secrets, u) }

func (c *Capture) addSSH(u Use) {
	if u.ID == "" {
		u.ID = "default"
	}
	c.ssh = addUse(c.ssh, u)
}

// merge adds what another reference of the same build was made of.
func (c *Capture) merge(o *Capture) {
	c.sources.merge(o.sources)
	for _, u := range o.secrets {
		c.addSecret(u)
	}
	for _, u := range o.ssh {
		c.addSSH(u)
	}
	c.network = c.network || o.network
}

func (c *Capture) sort() {
	c.sources.sort()
	byID := func(a, b Use) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(c.secrets, byID)
	slices.SortFunc(c.ssh, byID)
}

// capture walks the graph of a solved reference; nil if it was not solved.
func capture(r Ref) (*Capture, error) {
	e, ok := r.Solved()
	if !ok {
		return nil, nil
	}
	c := &Capture{def: r.Definition(), edge: e}
	seen := map[*solver.Vertex]bool{}
	var walk func(v *solver.Vertex) error
	walk = func(v *solver.Vertex) error {
		if seen[v] {
			return nil
		}
		seen[v] = true
		if err := c.vertex(v); err != nil {
			return err
		}
		for _, in := range v.Inputs {
			if err := walk(in.Vertex); err != nil {
				return err
			}
		}
		return nil
	}
	return c, walk(e.Vertex)
}

func (c *Capture) vertex(v *solver.Vertex) error {
	op, ok := v.Op.(*llb.Op)
	if !ok {
		return fmt.Errorf("provenance of %s: an op of type %T is not known", v.Name, v.Op)
	}
	switch x := op.Def.Op.(type) {
	case *pb.Op_Source:
		p, ok := op.Pin().(interface{ Source() source.Pin })
		if !ok {
			return fmt.Errorf("provenance of %s: the source was not pinned", v.Name)
		}
		return c.source(p.Source())
	case *pb.Op_Exec:
		c.exec(x.Exec)
	}
	return nil
}

func (c *Capture) exec(x *pb.ExecOp) {
	for _, m := range x.Mounts {
		switch m.MountType {
		case pb.MountType_SECRET:
			c.addSecret(Use{m.SecretOpt.GetID(), m.SecretOpt.GetOptional()})
		case pb.MountType_SSH:
			c.addSSH(Use{m.SSHOpt.GetID(), m.SSHOpt.GetOptional()})
		}
	}
	for _, s := range x.Secretenv {
		c.addSecret(Use{s.GetID(), s.GetOptional()})
	}
	if x.Network != pb.NetMode_NONE {
		c.network = true
	}
}

func (c *Capture) source(p source.Pin) error {
	r := p.Request
	switch r.Scheme() {
	case "docker-image", "oci-layout":
		// Resolved is the digest, alone or behind the name.
		d, err := digest.Parse(p.Resolved[strings.LastIndexByte(p.Resolved, '@')+1:])
		if err != nil {
			return fmt.Errorf("provenance of %s: digest %q: %w", r.Identifier, p.Resolved, err)
		}
		img := Image{Ref: r.Ref(), Digest: d, Layout: r.Scheme() == "oci-layout"}
		if r.Platform != nil {
			spec := r.Platform.Spec()
			img.Platform = &spec
		}
		c.addImage(img)
	case "docker-image+blob", "oci-layout+blob":
		d, err := digest.Parse(p.Resolved)
		if err != nil {
			return fmt.Errorf("provenance of %s: digest %q: %w", r.Identifier, p.Resolved, err)
		}
		c.addBlob(Blob{Ref: r.Ref(), Digest: d, Layout: r.Scheme() == "oci-layout+blob"})
	case "git":
		c.gitSource(p)
	case "http", "https":
		d, err := digest.Parse(p.Resolved)
		if err != nil {
			return fmt.Errorf("provenance of %s: digest %q: %w", redact(r.Identifier), p.Resolved, err)
		}
		c.addHTTP(Download{URL: r.Identifier, Digest: d})
	case "local":
		c.addLocal(r.Ref())
	default:
		return fmt.Errorf("provenance of %s: a source of this kind is not known", r.Identifier)
	}
	return nil
}

func (c *Capture) gitSource(p source.Pin) {
	r := p.Request
	remote, fragment, _ := strings.Cut(r.Ref(), "#")
	if full := r.Attrs[pb.AttrFullRemoteURL]; full != "" {
		remote, _, _ = strings.Cut(full, "#")
	} else {
		remote = "https://" + remote
	}
	if ref, _, _ := strings.Cut(fragment, ":"); ref != "" {
		remote += "#" + ref
	}
	c.addGit(Git{URL: remote, Commit: p.Resolved, Bundle: r.Attrs[pb.AttrGitBundle]})
	for _, attr := range []string{pb.AttrAuthTokenSecret, pb.AttrAuthHeaderSecret} {
		if id := r.Attrs[attr]; id != "" {
			c.addSecret(Use{ID: id, Optional: true})
		}
	}
	if id := r.Attrs[pb.AttrMountSSHSock]; id != "" {
		c.addSSH(Use{ID: id, Optional: true})
	}
}
