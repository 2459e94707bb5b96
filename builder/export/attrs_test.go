package export

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes"
)

func testSet(t *testing.T) (*Set, *memTrees) {
	trees := newMemTrees(t)
	return NewSet(Config{Trees: trees, Blobs: trees.blobs, Images: &memImages{}, Resolver: func(session.Client, bool) remotes.Resolver { return nil }}), trees
}

func TestResolveRefuses(t *testing.T) {
	set, _ := testSet(t)
	for _, c := range []struct{ typ, attrs, want string }{
		{"containerd", "", `exporter "containerd" could not be found: want one of cacheonly, docker, image, local, none, oci, tar`},
		{"image", "compression=lz4", `attribute compression: unknown compression "lz4": want uncompressed, gzip, zstd`},
		{"image", "compression=estargz", `unknown compression "estargz"`},
		{"image", "compression-level=fast", `"fast" is no level of gzip: want 0 to 9`},
		{"image", "compression-level=10", `"10" is no level of gzip: want 0 to 9`},
		{"oci", "compression=zstd;compression-level=23", `"23" is no level of zstd: want 0 to 22`},
		{"image", "compression-level=-1", `"-1" is no level`},
		{"image", "force-compression=si", `attribute force-compression: "si" is no boolean: want true or false`},
		{"image", "compression=zstd;oci-mediatypes=false", `"compression=zstd" conflicts with "oci-mediatypes=false"`},
		{"image", "oci-artifact=true;oci-mediatypes=false", `"oci-artifact=true" conflicts with "oci-mediatypes=false"`},
		{"image", "oci-mediatypes=maybe", `non-bool value specified for oci-mediatypes: "maybe"`},
		{"image", "annotation-index.a=b;oci-mediatypes=false", `cannot export annotations with "oci-mediatypes=false"`},
		{"image", "annotation-wrong.a=b", `unrecognized annotation type wrong`},
		{"image", "annotation[no/such/platform/here].a=b", `annotation "annotation[no/such/platform/here].a"`},
		{"image", "source-date-epoch=yesterday", `invalid source-date-epoch: "yesterday" is not a number of seconds`},
		{"image", "name=UPPER", `image name "UPPER": `},
		{"image", "name=ok,a b", `image name "a b": `},
		{"image", "push=true", `push=true needs name=REFERENCE`},
		{"image", "push=perhaps", `non-bool value specified for push: "perhaps"`},
		{"image", "push=true;push-by-digest=true;name=reg/x:tag", `can't push tagged ref docker.io/reg/x:tag by digest`},
		{"image", "store=1.5", `non-bool value specified for store`},
		{"oci", "tar=no way", `non-bool value specified for tar`},
		{"docker", "rewrite-timestamp=x", `non-bool value specified for rewrite-timestamp`},
		{"local", "platform-split=x", `non-bool value specified for platform-split: "x"`},
		{"local", "mode=move", `invalid local exporter mode "move": want copy or delete`},
		{"local", "src=", `empty value for src`},
		{"tar", "attestation-prefix=a/", `attestation-prefix "a/": want the beginning of a file name`},
		{"tar", "source-date-epoch=1e9", `"1e9" is not a number of seconds`},
	} {
		_, err := set.Resolve(c.typ, parse(c.attrs))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("type=%s %s: got %v, want %s", c.typ, c.attrs, err, c.want)
		}
	}
}

func TestResolveAccepts(t *testing.T) {
	set, _ := testSet(t)
	for _, c := range []struct{ typ, attrs string }{
		{"image", "name=a,b:c,reg:5000/d@sha256:" + strings.Repeat("0", 64) + ";push;unpack=true;registry.insecure=true;store=false;name-canonical"},
		{"image", "name=*;push=true"},
		{"image", "dangling-name-prefix=x;danging-name-empty-only=true;prefer-nondist-layers=true;attestation-inline=true;buildinfo=true;unknown=anything"},
		{"oci", "tar=false;oci-artifact=false;annotation.a=b;annotation-manifest[linux/amd64].c=d"},
		{"docker", "compression=uncompressed;source-date-epoch="},
		{"tar", "source-date-epoch=0"},
		{"local", "mode=DELETE;platform-split=false;attestation-prefix=x.;src=/out;what=ever"},
		{"cacheonly", ""}, {"none", "x=y"},
	} {
		attrs := parse(c.attrs)
		before := maps.Clone(attrs)
		e, err := set.Resolve(c.typ, attrs)
		if err != nil {
			t.Errorf("type=%s %s: %v", c.typ, c.attrs, err)
			continue
		}
		if e.Type() != c.typ || e.Name() == "" {
			t.Errorf("type=%s: Type %q, Name %q", c.typ, e.Type(), e.Name())
		}
		if !maps.Equal(before, attrs) {
			t.Errorf("type=%s %s: the caller's attributes became %v", c.typ, c.attrs, attrs)
		}
	}
	if got := set.Types(); !slices.IsSorted(got) || len(got) != 7 {
		t.Errorf("Types: %v", got)
	}
}

func TestCompressionIsKnownBeforeTheBuild(t *testing.T) {
	set, _ := testSet(t)
	for attrs, want := range map[string]layer.Compression{
		"": {Type: layer.Gzip, Level: -1},
		"compression=zstd;compression-level=0;force-compression": {Type: layer.Zstd, Level: 0, Force: true},
		"compression=uncompressed":                               {Type: layer.Uncompressed, Level: -1},
	} {
		e, err := set.Resolve("image", parse(attrs))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.Compression(); got == nil || *got != want {
			t.Errorf("%q: got %+v, want %+v", attrs, got, want)
		}
	}
	for _, typ := range []string{"local", "tar", "none"} {
		if e, _ := set.Resolve(typ, nil); e.Compression() != nil {
			t.Errorf("type=%s packs layers", typ)
		}
	}
}

// parse reads "k=v;k=v".
func parse(s string) map[string]string {
	out := map[string]string{}
	for kv := range strings.SplitSeq(s, ";") {
		if k, v, _ := strings.Cut(kv, "="); k != "" {
			out[k] = v
		}
	}
	return out
}
