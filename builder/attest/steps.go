package attest

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// config is the graph of a build (BuildKit's buildConfig).
type config struct {
	Steps         []step                   `json:"llbDefinition,omitempty"`
	DigestMapping map[digest.Digest]string `json:"digestMapping,omitempty"`

	index map[digest.Digest]int
}

// step is one op. Its inputs are named STEP:OUTPUT.
type step struct {
	ID     string   `json:"id,omitempty"`
	Op     *pb.Op   `json:"op,omitempty"`
	Inputs []string `json:"inputs,omitempty"`
}

// origin says which lines of which files the steps come from.
type origin struct {
	Locations map[string]*pb.Locations `json:"locations,omitempty"`
	Infos     []file                   `json:"infos,omitempty"`
}

// file is one that steps were read from, and how it was itself read.
type file struct {
	Filename string `json:"filename,omitempty"`
	Language string `json:"language,omitempty"`
	Data     []byte `json:"data,omitempty"`
	config
}

// ofTheSession are attributes of sources that differ from build to build.
var ofTheSession = []string{pb.AttrLocalSessionID, pb.AttrLocalUniqueID}

// publish takes out of an op what is of the session, and the credentials in
// URLs.
func publish(op *pb.Op) {
	if p := op.GetExec().GetMeta().GetProxyEnv(); p != nil {
		for _, v := range []*string{&p.HttpProxy, &p.HttpsProxy, &p.FtpProxy, &p.AllProxy} {
			*v = redact(*v)
		}
	}
	s := op.GetSource()
	if s == nil {
		return
	}
	for _, a := range ofTheSession {
		delete(s.Attrs, a)
	}
	switch scheme, _, _ := strings.Cut(s.Identifier, "://"); scheme {
	case "git", "http", "https":
		s.Identifier = redact(s.Identifier)
		if full, ok := s.Attrs[pb.AttrFullRemoteURL]; ok {
			s.Attrs[pb.AttrFullRemoteURL] = redact(full)
		}
	}
}

// newConfig lists the ops of a definition, each after its inputs; nil for an
// empty definition.
func newConfig(def *pb.Definition) (*config, error) {
	if def == nil || len(def.Def) == 0 {
		return nil, nil
	}
	ops := make(map[digest.Digest]*pb.Op, len(def.Def))
	var last digest.Digest
	for i, raw := range def.Def {
		op := &pb.Op{}
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("read op %d of the definition: %w", i, err)
		}
		publish(op)
		last = digest.FromBytes(raw)
		ops[last] = op
	}
	c := &config{index: map[digest.Digest]int{}, DigestMapping: map[digest.Digest]string{}}
	var walk func(d digest.Digest) error
	walk = func(d digest.Digest) error {
		if _, ok := c.index[d]; ok {
			return nil
		}
		op, ok := ops[d]
		if !ok {
			return fmt.Errorf("op %s is an input but not in the definition", d)
		}
		s := step{Op: op}
		for _, in := range op.Inputs {
			if err := walk(digest.Digest(in.Digest)); err != nil {
				return err
			}
			s.Inputs = append(s.Inputs, c.output(digest.Digest(in.Digest), int(in.Index)))
		}
		op.Inputs = nil
		c.index[d] = len(c.Steps)
		s.ID = c.id(d)
		c.DigestMapping[d] = s.ID
		c.Steps = append(c.Steps, s)
		return nil
	}
	return c, walk(last)
}

func (c *config) id(d digest.Digest) string { return fmt.Sprintf("step%d", c.index[d]) }

func (c *config) output(d digest.Digest, i int) string { return fmt.Sprintf("%s:%d", c.id(d), i) }

// origin returns where the steps come from; nil if the definition does not say.
func (c *config) origin(src *pb.Source) (*origin, error) {
	if len(src.GetInfos()) == 0 {
		return nil, nil
	}
	o := &origin{Locations: map[string]*pb.Locations{}}
	for _, info := range src.Infos {
		f := file{Filename: info.GetFilename(), Language: info.GetLanguage(), Data: info.GetData()}
		read, err := newConfig(info.GetDefinition())
		if err != nil {
			return nil, err
		}
		if read != nil {
			f.config = *read
		}
		o.Infos = append(o.Infos, f)
	}
	for d, l := range src.Locations {
		if _, ok := c.index[digest.Digest(d)]; ok {
			o.Locations[c.id(digest.Digest(d))] = l
		}
	}
	return o, nil
}
