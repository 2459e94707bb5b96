package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const dockerignore = ".dockerignore"

// ignoreFile names the files of a context that the client keeps for itself.
type ignoreFile struct {
	name string
	data []byte
}

// loadError says that a client's directory could not be read at all.
type loadError struct {
	local string
	err   error
}

func (e *loadError) Error() string {
	return fmt.Sprintf("load %s of %s: %v", dockerignore, e.local, e.err)
}
func (e *loadError) Unwrap() error { return e.err }

// readIgnoreFile loads .dockerignore of a client's directory; a directory without one ignores nothing.
func (g *gateway) readIgnoreFile(ctx context.Context, local, vertex, sharedKey string) (*ignoreFile, error) {
	ref, err := g.files(ctx, llb.Local(local,
		llb.SessionID(g.sessionFor(local)),
		llb.FollowPaths([]string{dockerignore}),
		llb.SharedKeyHint(sharedKey),
		llb.WithCustomName(vertex),
		llb.Differ(llb.DiffNone, false),
	))
	if err != nil {
		return nil, &loadError{local, err}
	}
	data, err := readFile(ctx, ref, dockerignore)
	if tooLarge := (*tooLargeError)(nil); errors.As(err, &tooLarge) {
		return nil, err // to leave it out would send what the user meant to keep
	}
	return &ignoreFile{name: dockerignore, data: data}, nil
}

// patterns returns the patterns, in order. The error of a bad one has its line.
func (f *ignoreFile) patterns() ([]string, error) {
	if f == nil {
		return nil, nil
	}
	all, err := ignorefile.ReadAll(bytes.NewReader(f.data))
	if err == nil {
		if _, err = patternmatcher.New(all); err == nil {
			return all, nil
		}
	}
	line := 0
	for text := range bytes.Lines(f.data) {
		line++
		one, lineErr := ignorefile.ReadAll(bytes.NewReader(text))
		if lineErr == nil {
			_, lineErr = patternmatcher.New(one)
		}
		if lineErr != nil {
			return nil, f.at(line, lineErr)
		}
	}
	return nil, fmt.Errorf("parse %s: %w", f.name, err)
}

func (f *ignoreFile) at(line int, err error) error {
	pos := &pb.Position{Line: int32(line)}
	return errdefs.WithSource(fmt.Errorf("parse %s: line %d: %w: want a path, with * ? [a-z] or **, and ! before it for an exception", f.name, line, err), &errdefs.Source{
		Info:   &pb.SourceInfo{Filename: f.name, Data: f.data},
		Ranges: []*pb.Range{{Start: pos, End: pos}},
	})
}
