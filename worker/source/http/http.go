package http

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/buildd/buildd/cache"
	cdigest "github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/tree"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/worker/registry"
	"github.com/buildd/buildd/worker/session"
	"github.com/buildd/buildd/worker/source"
	"github.com/opencontainers/go-digest"
)

// Trees is what the Source needs of tree.Store.
type Trees interface {
	Has(t cache.Tree) bool
	Files(ctx context.Context, t cache.Tree) (*cdigest.View, error)
	NewDraft(ctx context.Context, parent cache.Tree) (*tree.Draft, error)
}

// Config is what New needs.
type Config struct {
	Trees Trees
	// Dir keeps what servers answered.
	Dir string
	// Transport is nil for one with the environment's proxies.
	Transport http.RoundTripper
	// MaxSize is the largest file that is taken, in bytes; 0 is 64 GiB.
	MaxSize int64
	// IgnoreOwner keeps owners that cannot be set in digest.OwnerXattr.
	IgnoreOwner bool
}

// Source is the source of URLs.
type Source struct {
	c       Config
	answers *answers
}

// New returns a Source that goes on from the answers in c.Dir.
func New(c Config) (*Source, error) {
	if c.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 2 * time.Minute
		c.Transport = registry.RetryTransport(t)
	}
	a, err := openAnswers(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open http source: %w", err)
	}
	return &Source{c: c, answers: a}, nil
}

// Schemes are http and https.
func (s *Source) Schemes() []string { return []string{"http", "https"} }

// fetched is what a URL gave, as far as the file depends on it.
type fetched struct {
	Digest   digest.Digest
	Filename string
	// LastModified is the header as the server wrote it; "" without one.
	LastModified string `json:",omitempty"`
	// Tree has the file; "" if it is not here.
	Tree cache.Tree `json:",omitempty"`
}

// modTime is the file's time: the epoch if the server does not say.
func (f fetched) modTime() time.Time {
	if t, err := http.ParseTime(f.LastModified); err == nil {
		return t
	}
	return time.Unix(0, 0).UTC()
}

// Pin asks the URL's server, unless there is a checksum.
func (s *Source) Pin(ctx context.Context, c session.Client, r source.Request) (source.Pin, error) {
	req, err := parse(r)
	if err != nil {
		return source.Pin{}, err
	}
	f, err := s.resolve(ctx, c, req, r)
	if err != nil {
		return source.Pin{}, err
	}
	state, err := json.Marshal(f)
	if err != nil {
		return source.Pin{}, fmt.Errorf("source %s: %w", req.url.Redacted(), err)
	}
	return source.Pin{Request: r, Key: req.key(f), Resolved: f.Digest.String(), Tree: f.Tree, State: state}, nil
}

// resolve finds out the digest, once per build, and checks the signature.
func (s *Source) resolve(ctx context.Context, c session.Client, req request, r source.Request) (fetched, error) {
	if req.checksum != "" && len(req.signature) == 0 {
		f := fetched{Digest: req.checksum, Filename: req.nameFor(nil)}
		if have, ok := s.answers.get(req.id()); ok && have.Digest == f.Digest && have.Filename == f.Filename && have.LastModified == "" && s.c.Trees.Has(have.Tree) {
			f.Tree = have.Tree
		}
		return f, nil
	}
	data, err := r.Memo.Do(ctx, "http\n"+req.id(), func(ctx context.Context) ([]byte, error) {
		f, err := s.ask(ctx, c, req, r.Progress)
		if err != nil {
			return nil, err
		}
		return json.Marshal(f)
	})
	if err != nil {
		return fetched{}, err
	}
	var f fetched
	if err := json.Unmarshal(data, &f); err != nil {
		return fetched{}, fmt.Errorf("source %s: %w", req.url.Redacted(), err)
	}
	if err := req.checkDigest(f.Digest); err != nil {
		return fetched{}, err
	}
	if len(req.signature) == 0 {
		return f, nil
	}
	f, err = s.materialize(ctx, c, req, f, r.Progress)
	if err != nil {
		return fetched{}, err
	}
	return f, s.verifySignature(ctx, req, f)
}

func (r *request) checkDigest(have digest.Digest) error {
	if r.checksum == "" || have == r.checksum {
		return nil
	}
	return fmt.Errorf("digest mismatch for %s: it has %s, but %s was asked for", r.url.Redacted(), have, r.checksum)
}

// ask asks the server whether the URL is what it was, and downloads it if not.
func (s *Source) ask(ctx context.Context, c session.Client, req request, progress func(solver.Status)) (fetched, error) {
	if req.url.Host == session.UploadHost {
		f, _, err := s.download(ctx, c, req, nil, progress)
		return f, err
	}
	old, known := s.answers.get(req.id())
	var cond *answer
	if known {
		cond = &old
	}
	f, a, err := s.download(ctx, c, req, cond, progress)
	if err != nil {
		return fetched{}, err
	}
	if err := s.answers.put(req.id(), a); err != nil {
		return fetched{}, fmt.Errorf("remember %s: %w", req.url.Redacted(), err)
	}
	return f, nil
}

// Fetch returns the tree that Pin made, or downloads the file.
func (s *Source) Fetch(ctx context.Context, c session.Client, p source.Pin, progress func(solver.Status)) (cache.Tree, error) {
	req, err := parse(p.Request)
	if err != nil {
		return "", err
	}
	var f fetched
	if err := json.Unmarshal(p.State, &f); err != nil {
		return "", fmt.Errorf("read pin of %s: %w", req.url.Redacted(), err)
	}
	f, err = s.materialize(ctx, c, req, f, progress)
	return f.Tree, err
}

// materialize makes sure that the file is here and still the same.
func (s *Source) materialize(ctx context.Context, c session.Client, req request, f fetched, progress func(solver.Status)) (fetched, error) {
	if f.Tree != "" && s.c.Trees.Has(f.Tree) {
		return f, nil
	}
	want, id := f, req.id()
	if req.checksum != "" {
		// The name was settled without asking the server, and its time does not
		// count.
		req.file.Name = want.Filename
	}
	have, a, err := s.download(ctx, c, req, nil, progress)
	if err != nil {
		return fetched{}, err
	}
	if err := req.checkDigest(have.Digest); err != nil {
		return fetched{}, err
	}
	if have.Digest != want.Digest || have.Filename != want.Filename {
		return fetched{}, fmt.Errorf("%s changed while the build ran: it was %s and is %s now; build again", req.url.Redacted(), want.Digest, have.Digest)
	}
	if req.url.Host != session.UploadHost {
		if err := s.answers.put(id, a); err != nil {
			return fetched{}, fmt.Errorf("remember %s: %w", req.url.Redacted(), err)
		}
	}
	want.Tree = have.Tree
	return want, nil
}
