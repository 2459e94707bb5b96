package remotecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/remote"
	"github.com/buildd/buildd/solver"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestAttributes(t *testing.T) {
	s := New(Config{})
	key := strings.Repeat("QUFB", 4)
	for attrs, want := range map[string]string{
		"registry ref=x": "", "registry ref=x mode=max compression=zstd compression-level=3 force-compression= oci-mediatypes=true image-manifest=false registry.insecure=true ignore-error=": "",
		"registry":                                                  "ref is missing",
		"registry ref=x/Y":                                          `"x/Y"`,
		"registry ref=x@sha256:" + zeros:                            "digest",
		"registry ref=x mode=medium":                                `mode: "medium" is no mode: want min or max`,
		"registry ref=x ignore-error=maybe":                         "want true or false",
		"registry ref=x oci-mediatypes=x":                           "oci-mediatypes",
		"registry ref=x image-manifest=x":                           "image-manifest",
		"registry ref=x registry.insecure=x":                        "registry.insecure",
		"registry ref=x compression=xz":                             `"xz"`,
		"registry ref=x compression-level=99":                       "0 to 9",
		"registry ref=x image-manifest=true oci-mediatypes=false":   "conflicts",
		"registry ref=x oci-mediatypes=false":                       "",
		"local dest=/x tag=t reset=true":                            "",
		"local":                                                     "dest is missing",
		"inline":                                                    "",
		"inline mode=x":                                             "mode",
		"s3 region=r bucket=b name=a;b":                             "",
		"s3 region=r":                                               "bucket is missing",
		"s3 bucket=b":                                               "region is missing",
		"s3 region=r bucket=b touch_refresh=1x":                     `"1x" is no duration`,
		"s3 region=r bucket=b upload_parallelism=0":                 "above 0",
		"s3 region=r bucket=b use_path_style=x":                     "use_path_style",
		"s3 region=r bucket=b retry_mode=x":                         "standard or adaptive",
		"s3 region=r bucket=b retry_max_attempts=-1":                "above 0",
		"s3 region=r bucket=b access_key_id=x":                      "belong together",
		"s3 region=r bucket=b endpoint_url=x":                       "endpoint",
		"azblob account_url=https://a.b.c":                          "",
		"azblob account_url=https://a.b.c secret_access_key=" + key: "",
		"azblob":               "account_url is missing",
		"azblob account_url=x": "account URL",
		"azblob account_url=https://a.b.c secret_access_key=!": "secret_access_key",
		"gha url_v2=https://x":                                 "token is missing",
		"gha token=x":                                          "url_v2 is missing",
		"gha token=x url=https://x":                            "version 1",
		"gha token=x url_v2=https://x version=1":               "version",
		"gha token=x url_v2=https://x timeout=x":               "timeout",
		"tape":                                                 "registry",
	} {
		typ, m := split(attrs)
		e, err := s.Exporter(typ, m)
		if want == "" && (err != nil || e.Warning != "" || e.Name() == "") || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), typ)) {
			t.Errorf("%s: %+v, %v", attrs, e, err)
		}
	}
	if e, err := s.Exporter("registry", map[string]string{"ref": "x", "shiny": "1"}); err != nil || !strings.Contains(e.Warning, "shiny") {
		t.Errorf("unknown attribute: %+v, %v", e, err)
	}
}

var zeros = strings.Repeat("0", 64)

func split(s string) (string, map[string]string) {
	typ, rest, _ := strings.Cut(s, " ")
	m := map[string]string{}
	for f := range strings.FieldsSeq(rest) {
		k, v, _ := strings.Cut(f, "=")
		m[k] = v
	}
	return typ, m
}

func TestImports(t *testing.T) {
	s := New(Config{})
	var added []solver.Import
	i := s.Imports(ImportsConfig{Add: func(c solver.Import) { added = append(added, c) }})
	for attrs, want := range map[string]string{
		"registry ref=a": "", "local src=/d digest=sha256:" + zeros: "",
		"registry": "ref", "local digest=sha256:" + zeros: "src", "local src=/d": "digest", "local src=/d digest=x": `"x"`,
		"inline": "type=registry", "tape": "tape", "s3 region=x": "bucket",
	} {
		typ, m := split(attrs)
		for range 2 {
			err := i.Add(typ, m)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", attrs, err)
			}
			if want != "" {
				break
			}
		}
	}
	if len(added) != 2 {
		t.Errorf("%d caches were added", len(added))
	}
	// Only what a registry does not have depends on the build.
	var bound string
	for _, c := range added {
		if src := c.(*remote.Cache).Source; strings.HasPrefix(src, sourcePrefix) {
			bound = src
		} else if src != "docker.io/library/a:latest" {
			t.Errorf("source %s", src)
		}
	}
	if !s.Reaches(bound) || !s.Reaches("docker.io/library/a:latest") {
		t.Errorf("%s is out of reach", bound)
	}
	i.Close()
	if s.Reaches(bound) || !s.Reaches("docker.io/library/a:latest") {
		t.Errorf("%s can be reached after the build", bound)
	}
}

// memory is a bucket.
type memory struct {
	objects map[string][]byte
	age     time.Duration
	log     []string
}

func (m *memory) Get(_ context.Context, key string, limit int64) ([]byte, error) {
	b, ok := m.objects[key]
	if !ok || int64(len(b)) > limit {
		return nil, cache.ErrNotFound
	}
	return b, nil
}

func (m *memory) Open(_ context.Context, key string, size int64) (content.ReaderAt, error) {
	b, ok := m.objects[key]
	if !ok {
		return nil, cache.ErrNotFound
	}
	return remote.Bytes(b), nil
}

func (m *memory) Stat(_ context.Context, key string) (time.Time, int64, error) {
	b, ok := m.objects[key]
	if !ok {
		return time.Time{}, 0, cache.ErrNotFound
	}
	return time.Now().Add(-m.age), int64(len(b)), nil
}

func (m *memory) Put(_ context.Context, key string, r io.ReaderAt, size int64) error {
	b := make([]byte, size)
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	m.objects[key] = b
	m.log = append(m.log, "put "+key)
	return nil
}

func (m *memory) Touch(_ context.Context, key string, size int64) error {
	m.log = append(m.log, "touch "+key)
	return nil
}

func TestObjects(t *testing.T) {
	m := &memory{objects: map[string][]byte{}}
	o := &objects{bucket: m, place: "x", blobPrefix: "p/blobs/", manifest: "p/manifests/", names: []string{"a", "b"}, touch: time.Hour, parallel: 1}
	data := []byte("layer")
	desc := ocispecs.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	opened := 0
	put := func() {
		t.Helper()
		m.log = nil
		err := objectTarget{o}.Put(t.Context(), desc, nil, func(context.Context) (content.ReaderAt, error) { opened++; return remote.Bytes(data), nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	put()
	put()
	if opened != 1 || len(m.log) != 0 {
		t.Errorf("opened %d times, %q", opened, m.log)
	}
	m.age = 2 * time.Hour
	if put(); fmt.Sprint(m.log) != "[touch p/blobs/"+desc.Digest.String()+"]" {
		t.Errorf("an old blob: %q", m.log)
	}
	m.objects["p/blobs/"+desc.Digest.String()] = []byte("cut")
	if put(); opened != 2 {
		t.Error("a blob that was cut off stays so")
	}
	ra, err := o.blob(t.Context(), nil, desc)
	if err != nil || ra.Size() != desc.Size {
		t.Errorf("%v", err)
	}
	d := &remote.Document{Layers: []remote.Layer{}, Trees: []remote.Tree{}, Records: []remote.Record{{Key: cache.Hash("k"), Trees: []int{-1}}}}
	if _, err := o.write(t.Context(), nil, d, nil, func(string) func(error) { return func(error) {} }); err != nil {
		t.Fatal(err)
	}
	docs, err := o.read(t.Context(), nil)
	if err != nil || len(docs) != 1 || docs[0].Records[0].Key != cache.Hash("k") || !bytes.Equal(m.objects["p/manifests/a"], m.objects["p/manifests/b"]) {
		t.Errorf("%+v, %v", docs, err)
	}
	m.objects["p/manifests/a"] = []byte(`{"layers":[],"records":[{"digest":"x"}]}`)
	if _, err := o.read(t.Context(), nil); !errors.Is(err, remote.ErrForeign) {
		t.Errorf("cache of BuildKit: %v", err)
	}
}

// sources is a tree.Provider that notes what it is asked.
type sources struct{ asked []string }

func (s *sources) ReaderAt(_ context.Context, _ ocispecs.Descriptor, from []string) (content.ReaderAt, error) {
	s.asked = append(s.asked, from...)
	if len(from) == 0 {
		return nil, errors.New("nowhere to ask")
	}
	return remote.Bytes("next"), nil
}

func TestProvider(t *testing.T) {
	s, next := New(Config{}), &sources{}
	p := Provider{Set: s, Next: next}
	fails := false
	remove := s.active.add(sourcePrefix+"a", func(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
		if fails {
			return nil, errors.New("gone")
		}
		return remote.Bytes("import"), nil
	})
	size := func(from ...string) int64 {
		ra, err := p.ReaderAt(t.Context(), ocispecs.Descriptor{}, from)
		if err != nil {
			return -1
		}
		return ra.Size()
	}
	if size(sourcePrefix+"a", "image") != 6 || size("image") != 4 || size(sourcePrefix+"b", "image") != 4 {
		t.Error("wrong places")
	}
	fails = true
	if size(sourcePrefix+"a", "image") != 4 || size(sourcePrefix+"a") != -1 {
		t.Error("a cache that fails")
	}
	remove()
	if size(sourcePrefix+"a") != -1 || strings.Contains(fmt.Sprint(next.asked), sourcePrefix) {
		t.Errorf("asked %q", next.asked)
	}
}
