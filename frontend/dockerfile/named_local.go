package dockerfile

import (
	"context"

	"github.com/moby/buildkit/client/llb"
)

// local is a directory of the client. Which of its paths are used is known only after the whole Dockerfile has been read.
func (n *namedContext) local(ctx context.Context, name string) (*llb.State, error) {
	shared := prefixContext + n.key + "-"
	ignore, err := n.readIgnoreFile(ctx, name, "[context "+n.key+"] load "+dockerignore, shared+dockerignore)
	if err != nil {
		return nil, err
	}
	excludes, err := ignore.patterns()
	if err != nil {
		return nil, err
	}
	out := &lateOutput{make: func() llb.Output {
		opts := []llb.LocalOption{
			n.vertexName("load from client"),
			llb.SessionID(n.sessionFor(name)),
			llb.SharedKeyHint(shared + n.Opts[prefixSharedKey+n.key]),
			llb.ExcludePatterns(excludes),
		}
		if n.want.Paths != nil {
			opts = append(opts, n.want.Paths()...)
		}
		return llb.Local(name, opts...).Output()
	}}
	st := llb.NewState(out)
	return &st, nil
}
