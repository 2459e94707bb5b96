package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeClient is a build daemon whose sources are maps. It keeps what it was asked for.
type fakeClient struct {
	gwclient.Client // what no frontend should call is nil
	opts            map[string]string
	inputs          map[string]llb.State
	files           map[string]map[string]string // by identifier of the source
	images          map[string]string            // identifier to config; "-> ID" for a source policy that converts it
	broken          map[string]error             // sources that cannot be had
	meta            map[string]*sourceresolver.MetaResponse
	gateway         func(gwclient.SolveRequest) error // frontend images

	mu       sync.Mutex
	solves   []gwclient.SolveRequest
	resolves []string
	warnings []string
}

func (c *fakeClient) BuildOpts() gwclient.BuildOpts {
	return gwclient.BuildOpts{
		Opts:      c.opts,
		SessionID: "session0",
		Workers:   []gwclient.WorkerInfo{{Platforms: []ocispecs.Platform{{OS: "linux", Architecture: "amd64"}}}},
		LLBCaps:   pb.Caps.CapSet(pb.Caps.All()),
		Caps:      gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

func (c *fakeClient) Inputs(context.Context) (map[string]llb.State, error) { return c.inputs, nil }

func (c *fakeClient) Solve(ctx context.Context, r gwclient.SolveRequest) (*gwclient.Result, error) {
	c.mu.Lock()
	c.solves = append(c.solves, r)
	c.mu.Unlock()
	res := gwclient.NewResult()
	if r.Frontend != "" {
		if c.gateway == nil {
			return nil, errors.New("no such frontend: " + r.Frontend)
		}
		return res, c.gateway(r)
	}
	ops, _ := loadOps(r.Definition)
	for _, op := range ops {
		if err := c.broken[op.GetSource().GetIdentifier()]; err != nil && r.Evaluate {
			return nil, err
		}
	}
	ref := &fakeRef{files: map[string]string{}}
	for _, op := range ops {
		if src := op.GetSource(); src != nil {
			maps.Copy(ref.files, c.files[src.Identifier])
		}
		if f := op.GetFile(); f != nil && f.Actions[0].GetCopy().GetAttemptUnpackDockerCompatibility() {
			maps.Copy(ref.files, c.files["unpacked"])
		}
	}
	if len(ops) > 0 {
		res.SetRef(ref)
	}
	return res, nil
}

func (c *fakeClient) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, o sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	line := op.Identifier + attrs(op.Attrs)
	if o.ImageOpt != nil && o.ImageOpt.Platform != nil {
		line += " platform=" + o.ImageOpt.Platform.OS + "/" + o.ImageOpt.Platform.Architecture
	}
	if o.ImageOpt != nil {
		line += " mode=" + o.ImageOpt.ResolveMode
	}
	c.mu.Lock()
	c.resolves = append(c.resolves, line+" # "+o.LogName)
	c.mu.Unlock()
	if m, ok := c.meta[op.Identifier]; ok {
		return m, nil
	}
	config, ok := c.images[op.Identifier]
	if !ok {
		return nil, fmt.Errorf("%s: not found", op.Identifier)
	}
	if other, ok := strings.CutPrefix(config, "-> "); ok {
		return &sourceresolver.MetaResponse{Op: &pb.SourceOp{Identifier: strings.TrimSpace(other)}}, nil
	}
	return &sourceresolver.MetaResponse{
		Op:    &pb.SourceOp{Identifier: op.Identifier},
		Image: &sourceresolver.ResolveImageResponse{Digest: digest.FromString(config), Config: []byte(config)},
	}, nil
}

func (c *fakeClient) Warn(_ context.Context, _ digest.Digest, msg string, o gwclient.WarnOpts) error {
	line := msg
	for _, r := range o.Range {
		line += fmt.Sprintf(" [%s:%d]", o.SourceInfo.Filename, r.Start.Line)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = append(c.warnings, line)
	return nil
}

type fakeRef struct {
	gwclient.Reference
	files map[string]string
}

func (r *fakeRef) ReadFile(_ context.Context, q gwclient.ReadRequest) ([]byte, error) {
	data, ok := r.files[q.Filename]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: q.Filename, Err: fs.ErrNotExist}
	}
	if q.Range != nil {
		data = data[min(q.Range.Offset, len(data)):]
		data = data[:min(q.Range.Length, len(data))]
	}
	return []byte(data), nil
}

// loadOps returns the operations of a definition, in order, and their names.
func loadOps(def *pb.Definition) (ops []*pb.Op, names []string) {
	for _, dt := range def.GetDef() {
		op := &pb.Op{}
		if err := op.UnmarshalVT(dt); err != nil {
			panic(err)
		}
		if op.Op == nil {
			continue // the last one only points at the result
		}
		ops = append(ops, op)
		names = append(names, def.Metadata[string(digest.FromBytes(dt))].GetDescription()["llb.customname"])
	}
	return ops, names
}

// sources lists the sources of a definition, one a line.
func sources(def *pb.Definition) string {
	var b strings.Builder
	ops, names := loadOps(def)
	for i, op := range ops {
		if src := op.GetSource(); src != nil {
			fmt.Fprintf(&b, "%s%s", src.Identifier, attrs(src.Attrs))
			if op.Platform != nil {
				fmt.Fprintf(&b, " platform=%s/%s", op.Platform.OS, op.Platform.Architecture)
			}
			fmt.Fprintf(&b, " # %s\n", names[i])
		}
	}
	return b.String()
}

func attrs(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, " %s=%s", k, m[k])
	}
	return b.String()
}

func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}
