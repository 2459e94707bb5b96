package export

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// noise makes a tree of one layer with a file of n bytes that do not compress.
func (s *stores) noise(t *testing.T, seed byte, n int) cache.Tree {
	t.Helper()
	d, err := s.trees.NewDraft(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	if err := os.WriteFile(filepath.Join(d.Dir, "noise"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	tr, err := d.Commit(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	lease := s.trees.Lease(t.Name())
	if err := lease.Add(tr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lease.Release)
	return tr
}

// parts notes which parts of an export begin and how many have ended.
type parts struct {
	steps
	ended int // guarded by mu
}

func (p *parts) progress(id string) func(error) {
	p.steps.progress(id)
	return func(error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended++
	}
}

func (p *parts) count(id string) (n int) {
	for _, s := range p.all {
		if s == id {
			n++
		}
	}
	return n
}

func TestLayersArePushedWhileTheyAreMade(t *testing.T) {
	s := openStores(t)
	origin := startRegistry(t)
	var seed byte
	for name, c := range map[string]struct {
		attrs  string
		n      int // bytes of the layer
		stream bool
		small  int // uploads of the ordinary push
	}{
		"gzip":           {"name=HOST/gzip", 6 << 20, true, 1},
		"zstd":           {"compression=zstd;name=HOST/zstd", 6 << 20, true, 1},
		"uncompressed":   {"compression=uncompressed;name=HOST/plain", 6 << 20, true, 1},
		"forced":         {"compression=gzip;compression-level=1;force-compression=true;name=HOST/forced", 6 << 20, true, 1},
		"Docker's types": {"oci-mediatypes=false;name=HOST/docker", 6 << 20, true, 1},
		"times":          {"rewrite-timestamp=true;source-date-epoch=5;name=HOST/times", 6 << 20, true, 1},
		"by digest":      {"push-by-digest=true;name=HOST/digest", 6 << 20, true, 1},
		"insecure":       {"registry.insecure=true;name=HOST/insecure", 6 << 20, true, 1},
		"kept, unpacked": {"store=true;unpack=true;name=HOST/kept", 6 << 20, true, 1},
		"nondist":        {"prefer-nondist-layers=true;name=HOST/nondist", 6 << 20, true, 1},
		"two tags":       {"name=HOST/tags:1,HOST/tags:2", 6 << 20, true, 1},
		"two names":      {"name=HOST/one,HOST/two", 6 << 20, true, 3},
		"small":          {"name=HOST/small", 3 << 20, false, 2},
	} {
		seed++
		t.Run(name, func(t *testing.T) {
			var d meddler
			host := d.start(t, origin)
			var p parts
			in := input(t, s.noise(t, seed, c.n), map[string]string{"containerimage.config": amd64})
			res := export(t, s.set, "image", "push=true;"+strings.ReplaceAll(c.attrs, "HOST", host), in, Request{Progress: p.progress})
			refs, _, _ := strings.Cut(c.attrs[strings.Index(c.attrs, "name=")+5:], ";")
			for ref := range strings.SplitSeq(strings.ReplaceAll(refs, "HOST", host), ",") {
				if name == "by digest" {
					ref += "@" + res.Descriptor.Digest.String()
				}
				pull(t, ref, s.blobs, *res.Descriptor)
			}
			// The stream's PUT has no body; what was pushed otherwise counts.
			streamed := d.count("PATCH", "/uploads/")
			if (streamed == 1) != c.stream || d.count("PUT", "/uploads/") != streamed+c.small || d.count("DELETE", "") > 0 {
				t.Errorf("%d streamed; calls:\n%s", streamed, strings.Join(d.calls, "\n"))
			}
			if want := len(strings.Split(refs, ",")); p.count(pushingLayers) != want || p.ended != len(p.all) {
				t.Errorf("%d ended of %q", p.ended, p.all)
			}
		})
	}
}

// Whatever goes wrong with a stream, the push does its work.
func TestPushDoesWhatStreamsCannot(t *testing.T) {
	s := openStores(t)
	origin := startRegistry(t)
	var seed byte = 100
	patch := func(r *http.Request) bool { return r.Method == http.MethodPatch }
	for name, c := range map[string]struct {
		deny    func(r *http.Request) int
		after   func(r *http.Response) error
		deletes int
	}{
		"refused": {deny: func(r *http.Request) int {
			if patch(r) {
				return http.StatusMethodNotAllowed
			}
			return 0
		}, deletes: 1},
		"breaks": {deny: func(r *http.Request) int {
			if patch(r) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			return 0
		}, deletes: 1},
		"overloaded in the end": {deny: func(r *http.Request) int {
			if r.Method == http.MethodPut && r.ContentLength == 0 {
				return http.StatusServiceUnavailable
			}
			return 0
		}, deletes: 1},
		"another host": {after: func(r *http.Response) error {
			if l := r.Header.Get("Location"); patch(r.Request) {
				r.Header.Set("Location", "http://registry.invalid/"+l)
			}
			return nil
		}, deletes: 1},
	} {
		seed++
		t.Run(name, func(t *testing.T) {
			d := meddler{deny: c.deny, after: c.after}
			ref := d.start(t, origin) + "/anyhow:" + strings.ReplaceAll(name, " ", "-")
			res := export(t, s.set, "image", "push=true;name="+ref, input(t, s.noise(t, seed, 6<<20), nil), Request{})
			pull(t, ref, s.blobs, *res.Descriptor)
			if d.count("PATCH", "") != 1 || d.count("DELETE", "/uploads/") != c.deletes {
				t.Errorf("calls:\n%s", strings.Join(d.calls, "\n"))
			}
		})
	}
}

// stuck is a registry that takes an upload but does not go on with it.
func stuck(t *testing.T, origin string) (d *meddler, host string, begun <-chan struct{}) {
	t.Helper()
	reached, over := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d = &meddler{deny: func(r *http.Request) int {
		if r.Method == http.MethodPatch {
			once.Do(func() { close(reached) })
			<-over
		}
		return 0
	}}
	host = d.start(t, origin)
	t.Cleanup(func() { close(over) }) // before the server is closed
	return d, host, reached
}

func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", what)
	}
}

func TestStreamsEndWithTheirBuild(t *testing.T) {
	s := openStores(t)
	origin := startRegistry(t)
	gone := func(t *testing.T, d *meddler, p *parts) {
		t.Helper()
		if d.count("DELETE", "/uploads/") != 1 {
			t.Errorf("calls:\n%s", strings.Join(d.calls, "\n"))
		}
		if left, _ := filepath.Glob(filepath.Join(s.dir, "blobs/ingest/*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ended != len(p.all) {
			t.Errorf("%d ended of %q", p.ended, p.all)
		}
	}
	t.Run("discarded", func(t *testing.T) {
		d, host, begun := stuck(t, origin)
		e, err := s.set.Resolve("image", parse("push=true;name="+host+"/discarded"))
		if err != nil {
			t.Fatal(err)
		}
		var p parts
		ctx, cancel := context.WithCancel(t.Context())
		res, err := e.Export(ctx, input(t, s.noise(t, 200, 32<<20), nil), Request{Progress: p.progress})
		cancel() // as a group's context ends, which the upload outlives
		if err != nil {
			t.Fatal(err)
		}
		<-begun
		if d.count("DELETE", "") > 0 {
			t.Error("the upload ended with Export")
		}
		within(t, "Discard", res.Discard)
		gone(t, d, &p)
	})
	t.Run("export fails", func(t *testing.T) {
		d, host, begun := stuck(t, origin)
		e, err := s.set.Resolve("image", parse("push=true;name="+host+"/fails"))
		if err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		in := input(t, s.noise(t, 201, 32<<20), nil)
		in.InlineCache = func(context.Context, string, []ocispecs.Descriptor) ([]byte, error) {
			<-begun
			return nil, boom
		}
		var p parts
		within(t, "Export", func() {
			if _, err := e.Export(t.Context(), in, Request{Progress: p.progress}); !errors.Is(err, boom) {
				t.Errorf("got %v", err)
			}
		})
		gone(t, d, &p)
	})
	t.Run("cancelled while it is made", func(t *testing.T) {
		d, host, begun := stuck(t, origin)
		e, err := s.set.Resolve("image", parse("push=true;name="+host+"/cancelled"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			cancel()
		}()
		var p parts
		within(t, "Export", func() {
			if _, err := e.Export(ctx, input(t, s.noise(t, 202, 256<<20), nil), Request{Progress: p.progress}); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		gone(t, d, &p)
	})
	t.Run("cancelled while it is pushed", func(t *testing.T) {
		d, host, begun := stuck(t, origin)
		e, err := s.set.Resolve("image", parse("push=true;name="+host+"/pushed"))
		if err != nil {
			t.Fatal(err)
		}
		var p parts
		res, err := e.Export(t.Context(), input(t, s.noise(t, 203, 32<<20), nil), Request{Progress: p.progress})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			cancel()
		}()
		within(t, "Finalize", func() {
			if err := res.Finalize(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		gone(t, d, &p)
	})
}
