package remotecache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/buildd/buildd/builder/remotecache/gha"
	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// inActions is a cache of GitHub Actions. Blobs go by the names that BuildKit gives
// them, so that the two share them.
type inActions struct {
	client  *gha.Client
	scope   string
	timeout time.Duration
}

const ghaTimeout = 10 * time.Minute

func ghaStore(a attrs) (store, error)   { return newActions(a) }
func ghaSource(a attrs) (source, error) { return newActions(a) }

func newActions(a attrs) (*inActions, error) {
	g := &inActions{scope: a.text("scope", "buildkit")}
	token, _ := a.take("token")
	if token == "" {
		return nil, errors.New("attribute token is missing: want the value of $ACTIONS_RUNTIME_TOKEN, which only jobs of GitHub Actions have")
	}
	v1, v2 := a.text("url", ""), a.text("url_v2", "")
	version := a.text("version", "")
	switch {
	case version != "" && version != "2":
		return nil, fmt.Errorf("attribute version: %q: only version 2 of the service is supported: want 2, or none", version)
	case v2 == "" && (version == "2" || strings.Contains(v1, "results-receiver.actions.githubusercontent.com")):
		v2 = v1
	case v2 == "" && v1 != "":
		return nil, fmt.Errorf("attribute url: %q is of version 1 of the service, which GitHub has turned off: want url_v2=$ACTIONS_RESULTS_URL", v1)
	case v2 == "":
		return nil, errors.New("attribute url_v2 is missing: want the value of $ACTIONS_RESULTS_URL")
	}
	a.take("repository") // for lists of keys, which version 2 is quick enough without
	a.take("ghtoken")
	var err error
	if g.timeout, err = a.duration("timeout", ghaTimeout); err != nil {
		return nil, err
	}
	g.client, err = gha.New(v2, token)
	return g, err
}

func (g *inActions) name() string   { return "exporting to GitHub Actions Cache" }
func (g *inActions) id() string     { return "GitHub Actions scope " + g.scope }
func (g *inActions) images() string { return "" }

func (g *inActions) blobKey(d digest.Digest) string { return "buildkit-blob-1-" + d.String() }

func (g *inActions) indexKey(branch string) string {
	return "index-" + g.scope + "-1-" + digest.FromString(branch).Encoded()[:8]
}

func (g *inActions) write(ctx context.Context, _ session.Client, d *remote.Document, blobs []remote.Blob, step func(string) func(error)) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	branch := g.client.Writable()
	if branch == "" {
		return nil, errors.New("the job may not write to the cache: its token has no scope with write permission")
	}
	data, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if err := remote.WriteBlobs(ctx, g, blobs, 4, step); err != nil {
		return nil, err
	}
	done := step("writing cache manifest")
	err = g.client.SaveMutable(ctx, g.indexKey(branch), data)
	done(err)
	return nil, err
}

// Put implements remote.Target.
func (g *inActions) Put(ctx context.Context, desc ocispecs.Descriptor, _ []string, open remote.Open) error {
	key := g.blobKey(desc.Digest)
	e, err := g.client.Load(ctx, key)
	if err == nil && e.Key == key {
		return nil
	}
	if err != nil && !errors.Is(err, cache.ErrNotFound) {
		return err
	}
	ra, err := open(ctx)
	if err != nil {
		return err
	}
	defer ra.Close()
	err = g.client.Save(ctx, key, ra, desc.Size)
	if errors.Is(err, gha.ErrExists) { // another job is at it
		return nil
	}
	return err
}

// read reads the caches of all branches that the job may read from.
func (g *inActions) read(ctx context.Context, _ session.Client) ([]*remote.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	var docs []*remote.Document
	var errs []error
	for _, branch := range g.client.Readable() {
		d, err := g.readBranch(ctx, branch)
		if err != nil {
			errs = append(errs, fmt.Errorf("branch %s: %w", branch, err))
			continue
		}
		docs = append(docs, d)
	}
	if len(docs) == 0 {
		return nil, errors.Join(errs...)
	}
	return docs, nil
}

func (g *inActions) readBranch(ctx context.Context, branch string) (*remote.Document, error) {
	e, err := g.client.Latest(ctx, g.indexKey(branch))
	if err != nil {
		return nil, err
	}
	data, err := e.Read(ctx, remote.MaxDocument)
	if err != nil {
		return nil, err
	}
	return remote.Decode(data)
}

func (g *inActions) blob(ctx context.Context, _ session.Client, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	e, err := g.client.Load(ctx, g.blobKey(desc.Digest))
	if err != nil {
		return nil, err
	}
	return e.Open(ctx, desc.Size)
}
