package dockerfile

import (
	"context"
	"fmt"
	"strings"

	"github.com/buildd/buildd/frontend/dockerfile/gitref"
	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
)

const (
	// Names of the directories that clients offer.
	localContext    = "context"
	localDockerfile = "dockerfile"

	defaultFilename = "Dockerfile"
	// downloaded is the name that a file of an HTTP source gets.
	downloaded = "context"
)

// mainContext says where the build context and the Dockerfile are.
type mainContext struct {
	state      *llb.State // nil: the client's directory localContext
	dockerfile *llb.State // nil: the client's directory dockerfileLocal
	filename   string     // of the Dockerfile

	dockerfileLocal string
}

// findMainContext tells the kinds of a build context apart: a URL in the option "context", a definition sent along, or else a
// directory of the client.
func findMainContext(ctx context.Context, g *gateway, o *options) (*mainContext, error) {
	m := &mainContext{filename: defaultFilename, dockerfileLocal: localDockerfile}
	if v, ok := g.Opts[optFilename]; ok {
		m.filename = v
	}
	forceLocal, isForced := g.Opts[optDockerfileKey]
	if isForced {
		m.dockerfileLocal = forceLocal
	}
	key := localContext
	if v, ok := g.Opts[optContextKey]; ok {
		key = v
	}
	if err := m.find(ctx, g, o, g.Opts[key]); err != nil {
		return nil, err
	}
	if isForced {
		m.dockerfile = nil
	}
	if dir, ok := g.Opts[optContextSubDir]; ok && m.state != nil {
		st := llb.Scratch().File(llb.Copy(*m.state, dir, "/", &llb.CopyInfo{CopyDirContentsOnly: true}))
		m.state = &st
	}
	return m, nil
}

func (m *mainContext) find(ctx context.Context, g *gateway, o *options, url string) error {
	if st, ok, err := gitContext(g, o, url); err != nil {
		return fmt.Errorf("build context: %w", err)
	} else if ok {
		m.state, m.dockerfile = st, st
		return nil
	}
	if isHTTP(url) {
		return m.download(ctx, g, url)
	}
	if url != "" {
		return optionError(localContext, url, "a git URL or an http(s) URL; a directory is sent as a local mount of that name", nil)
	}
	if st, ok := g.inputs[localContext]; ok {
		m.state = &st
	}
	if st, ok := g.inputs[m.dockerfileLocal]; ok {
		m.dockerfile = &st
	}
	return nil
}

func gitContext(g *gateway, o *options, url string) (*llb.State, bool, error) {
	opts := []llb.GitOption{}
	if g.Opts[argSourceDate] != "" {
		// The image shall be the same again, so its files must not have the time of the checkout.
		opts = append(opts, llb.GitMTimeCommit())
	}
	if o.keepGitDir {
		opts = append(opts, llb.KeepGitDir())
	}
	return gitState(url, o, opts...)
}

// gitState returns the repository that url names; false if it names none.
func gitState(url string, o *options, opts ...llb.GitOption) (*llb.State, bool, error) {
	ref, isGit, err := gitref.Parse(url)
	if !isGit {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, err
	}
	if o.run.GitAdvice {
		opts = append(opts, llb.GitAdvice(true))
	}
	opts = append(opts, internalName("load git source "+url))
	// What the URL says comes last: it is closer to the repository than the options of the build.
	st := llb.Git(ref.Remote, "", append(opts, ref.Options()...)...)
	return &st, true, nil
}

func isHTTP(url string) bool {
	return strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")
}

// download looks at what is behind url: an archive is the context, anything else is the Dockerfile.
func (m *mainContext) download(ctx context.Context, g *gateway, url string) error {
	st := llb.HTTP(url, llb.Filename(downloaded), internalName("load remote build context"))
	ref, err := g.files(ctx, st)
	if err != nil {
		return fmt.Errorf("load build context %s: %w", url, err)
	}
	if ref == nil {
		return fmt.Errorf("load build context %s: %w", url, notExist(downloaded))
	}
	head, err := ref.ReadFile(ctx, gwclient.ReadRequest{Filename: downloaded, Range: &gwclient.FileRange{Length: archiveHead}})
	if err != nil {
		return fmt.Errorf("read build context %s: %w", url, err)
	}
	if isArchive(head) {
		st = llb.Scratch().File(llb.Copy(st, "/"+downloaded, "/", &llb.CopyInfo{AttemptUnpack: true}))
	} else {
		m.filename = downloaded
	}
	m.state, m.dockerfile = &st, &st
	return nil
}
