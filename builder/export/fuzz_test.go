package export

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	godigest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Whatever a client sends, it is an exporter or an error.
func FuzzResolve(f *testing.F) {
	f.Add("image", "push=true;name=a,b")
	f.Add("oci", "annotation-manifest-descriptor[linux/arm64].k=v;source-date-epoch=1")
	f.Add("local", "src=..;mode=delete;platform-split")
	set := NewSet(Config{})
	f.Fuzz(func(t *testing.T, typ, attrs string) {
		e, err := set.Resolve(typ, parse(attrs))
		if (e == nil) == (err == nil) {
			t.Errorf("exporter %v, error %v", e, err)
		}
	})
}

// Whatever a scanner writes stays JSON.
func FuzzSBOM(f *testing.F) {
	f.Add(`{"files":[{"fileName":"a"}],"packages":[{"files":[null,1]}],"creationInfo":{"creators":3}}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, sbom string) {
		doc := map[string]any{}
		if json.Unmarshal([]byte(sbom), &doc) != nil {
			t.Skip()
		}
		addLayerIDs(doc["files"], func(string) godigest.Digest { return "sha256:x" })
		addCreator(doc)
		if _, err := json.Marshal(doc); err != nil {
			t.Error(err)
		}
	})
}

// Whatever config a frontend sends, it becomes a config or an error.
func FuzzImageConfig(f *testing.F) {
	f.Add(amd64, "")
	f.Add(`{"os":"","architecture":"x","history":[{}]}`, `{"history":[{"created":"2020-01-01T00:00:00Z"}]}`)
	f.Fuzz(func(t *testing.T, config, base string) {
		c := chain{descs: make([]ocispecs.Descriptor, 0), diffIDs: []godigest.Digest{}}
		out, err := imageConfig(Platform{Config: []byte(config), BaseConfig: []byte(base)}, c, &past, nil)
		if err != nil {
			return
		}
		var img ocispecs.Image
		if err := json.Unmarshal(out, &img); err != nil || img.OS == "" || img.Architecture == "" {
			t.Errorf("%v: %s", err, out)
		}
		for _, h := range img.History {
			if !h.EmptyLayer {
				t.Errorf("history tells of a layer that is not there: %s", out)
			}
		}
	})
}

func FuzzStatement(f *testing.F) {
	f.Add(`{"predicateType":"x","subject":[{"name":"a","digest":{"sha256":"00"}}],"predicate":{}}`)
	f.Fuzz(func(t *testing.T, in string) {
		s, err := parseStatement([]byte(in))
		if err != nil {
			return
		}
		a := Attestation{
			Kind: gatewaypb.AttestationKind_InToto, Path: "x", PredicateType: s.PredicateType, Subjects: s.rawSubjects(),
			Content: func(context.Context) ([]byte, error) { return s.Predicate, nil },
		}
		out, err := a.state(t.Context(), nil, Request{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := json.Marshal(out); err != nil || !strings.Contains(string(data), statementType) {
			t.Errorf("%s: %v", data, err)
		}
	})
}
