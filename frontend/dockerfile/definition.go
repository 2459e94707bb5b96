package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// definition is the Dockerfile of a build.
type definition struct {
	*llb.SourceMap               // file name, text and the LLB that it came from: what an error is printed with
	vertex         digest.Digest // that loaded it, under which its warnings are shown
	ignore         *ignoreFile   // NAME.dockerignore beside it; nil if there is none
}

// readDefinition loads the Dockerfile and the ignore file that belongs to it alone.
func readDefinition(ctx context.Context, g *gateway, m *mainContext) (*definition, error) {
	st := m.dockerfile
	if st == nil {
		st = m.localDefinition(g)
	}
	def, err := g.marshal(ctx, *st)
	if err != nil {
		return nil, fmt.Errorf("marshal source of %s: %w", m.filename, err)
	}
	vertex, err := def.Head()
	if err != nil {
		return nil, err
	}
	ref, err := g.solve(ctx, gwclient.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, fmt.Errorf("load build definition from %s: %w", m.filename, err)
	}
	data, err := m.readDockerfile(ctx, ref)
	if err != nil {
		// Known to users and scripts in these words.
		return nil, fmt.Errorf("failed to read dockerfile: %w", err)
	}
	ignore, err := m.readSpecificIgnore(ctx, ref)
	if err != nil {
		return nil, err
	}
	sm := llb.NewSourceMap(st, m.filename, "Dockerfile", data)
	sm.Definition = def
	return &definition{SourceMap: sm, vertex: vertex, ignore: ignore}, nil
}

// localDefinition is the client's directory, narrowed to the files that readDefinition may want.
func (m *mainContext) localDefinition(g *gateway) *llb.State {
	paths := []string{m.filename, m.filename + dockerignore}
	if lower, ok := m.lowerCase(); ok {
		paths = append(paths, lower)
	}
	st := llb.Local(m.dockerfileLocal,
		llb.FollowPaths(paths),
		llb.SessionID(g.sessionFor(m.dockerfileLocal)),
		llb.SharedKeyHint(m.dockerfileLocal),
		internalName("load build definition from "+m.filename),
		llb.Differ(llb.DiffNone, false),
	)
	return &st
}

// lowerCase is the other name that a Dockerfile may have, if it is called Dockerfile.
func (m *mainContext) lowerCase() (string, bool) {
	if path.Base(m.filename) != defaultFilename {
		return "", false
	}
	return path.Join(path.Dir(m.filename), strings.ToLower(defaultFilename)), true
}

func (m *mainContext) readDockerfile(ctx context.Context, ref gwclient.Reference) ([]byte, error) {
	data, err := readFile(ctx, ref, m.filename)
	if tooLarge := (*tooLargeError)(nil); err == nil || errors.As(err, &tooLarge) {
		return data, err
	}
	if lower, ok := m.lowerCase(); ok {
		if data, lowerErr := readFile(ctx, ref, lower); lowerErr == nil {
			return data, nil
		}
	}
	return nil, err
}

func (m *mainContext) readSpecificIgnore(ctx context.Context, ref gwclient.Reference) (*ignoreFile, error) {
	name := m.filename + dockerignore
	data, err := readFile(ctx, ref, name)
	if tooLarge := (*tooLargeError)(nil); errors.As(err, &tooLarge) {
		return nil, err
	}
	if err != nil {
		return nil, nil // most Dockerfiles have none
	}
	return &ignoreFile{name: name, data: data}, nil
}

// info is how the protocol carries a source map.
func (d *definition) info() *pb.SourceInfo {
	return &pb.SourceInfo{Filename: d.Filename, Data: d.Data, Language: d.Language, Definition: d.Definition.ToPB()}
}

// warn returns what tells the client of a broken rule. An error in telling it is none of the build's.
func (d *definition) warn(ctx context.Context, c gwclient.Client) linter.LintWarnFunc {
	return func(rule, description, url, msg string, location []parser.Range) {
		line := 0
		if len(location) > 0 {
			line = location[0].Start.Line
		}
		_ = c.Warn(ctx, d.vertex, linter.LintFormatShort(rule, msg, line), gwclient.WarnOpts{
			Level:      1,
			SourceInfo: d.info(),
			Range:      ranges(location),
			Detail:     [][]byte{[]byte(description)},
			URL:        url,
		})
	}
}

func ranges(in []parser.Range) []*pb.Range {
	out := make([]*pb.Range, 0, len(in))
	for _, r := range in {
		out = append(out, &pb.Range{Start: position(r.Start), End: position(r.End)})
	}
	return out
}

func position(p parser.Position) *pb.Position {
	return &pb.Position{Line: int32(p.Line), Character: int32(p.Character)}
}
