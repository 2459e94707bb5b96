package e2e

import (
	"context"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// controlClient returns the daemon's API without a client's care.
func (d *daemon) controlClient() control.ControlClient {
	d.t.Helper()
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(256<<20)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", strings.TrimPrefix(d.Addr, "unix://"))
		}))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return control.NewControlClient(c)
}

// TestHostileMetadata sends graphs whose steps are in order, and fail, with all
// that stands beside the steps out of order.
func TestHostileMetadata(t *testing.T) {
	d := startWithBusybox(t)
	ctl := d.controlClient()
	fails := func() (*pb.Definition, string) {
		def := definition(t, busyboxOp(), execOp(func(x *pb.ExecOp) { x.Meta.Args = []string{"false"} }))
		return def, string(digest.FromBytes(def.Def[1]))
	}
	for name, spoil := range map[string]func(def *pb.Definition, step string){
		"source that is not": func(def *pb.Definition, step string) {
			def.Source = &pb.Source{Locations: map[string]*pb.Locations{step: {Locations: []*pb.Location{{SourceIndex: 99, Ranges: []*pb.Range{{}}}}}}}
		},
		"negative source": func(def *pb.Definition, step string) {
			def.Source = &pb.Source{Locations: map[string]*pb.Locations{step: {Locations: []*pb.Location{{SourceIndex: -1}}}, "../../x": nil}, Infos: []*pb.SourceInfo{{}}}
		},
		"lines that are not": func(def *pb.Definition, step string) {
			def.Source = &pb.Source{
				Infos: []*pb.SourceInfo{{Filename: "../../etc/passwd\x1b[2J", Data: []byte("one line"), Definition: &pb.Definition{Def: [][]byte{{0xff}}}}},
				Locations: map[string]*pb.Locations{step: {Locations: []*pb.Location{{Ranges: []*pb.Range{
					{Start: &pb.Position{Line: -5, Character: -7}, End: &pb.Position{Line: math.MaxInt32, Character: math.MaxInt32}},
					{Start: &pb.Position{Line: math.MaxInt32}, End: &pb.Position{Line: math.MinInt32}}, {},
				}}}}},
			}
		},
		"metadata of nothing": func(def *pb.Definition, step string) {
			def.Metadata = map[string]*pb.OpMetadata{"../../x": nil, "": {}, step: nil}
		},
		"giant metadata": func(def *pb.Definition, step string) {
			def.Metadata = map[string]*pb.OpMetadata{step: {
				Description:    map[string]string{"llb.customname": strings.Repeat("\x00\x1b[2J", 1<<18), strings.Repeat("k", 1<<20): ""},
				ProgressGroup:  &pb.ProgressGroup{Id: strings.Repeat("../", 1000)},
				Caps:           map[string]bool{"no.such.cap": true},
				LinuxResources: &pb.LinuxResources{Memory: -1, CpuQuota: math.MinInt64, CpusetCpus: "../../x"},
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			def, step := fails()
			spoil(def, step)
			_, err := ctl.Solve(t.Context(), &control.SolveRequest{Ref: "metadata " + name, Definition: def})
			if err == nil || status.Code(err) == codes.Internal {
				t.Errorf("want an error that is no internal one: %v", err)
			}
			t.Logf("%.300v", err)
		})
	}
	d.alive()
}

func policy(t *testing.T, ref string, s *spb.Selector) *control.SolveRequest {
	return &control.SolveRequest{
		Ref:          ref,
		Definition:   definition(t, busyboxOp()),
		SourcePolicy: &spb.Policy{Rules: []*spb.Rule{{Action: spb.PolicyAction_CONVERT, Selector: s, Updates: &spb.Update{Identifier: "nothing://../.."}}}},
	}
}

// TestHostileRequests sends what no client sends.
func TestHostileRequests(t *testing.T) {
	d := startWithBusybox(t)
	ctl := d.controlClient()
	requests := map[string]*control.SolveRequest{
		"nothing":                 {},
		"unknown frontend":        {Ref: "a", Frontend: "nothing.v0"},
		"frontend without files":  {Ref: "b", Frontend: "dockerfile.v0"},
		"unknown session":         {Ref: "c", Frontend: "dockerfile.v0", Session: "../../x"},
		"reference as a path":     {Ref: "../../../x", Frontend: "dockerfile.v0", Session: "s"},
		"giant reference":         {Ref: strings.Repeat("x", 1<<20), Frontend: "dockerfile.v0", Session: "s"},
		"unknown exporter":        {Ref: "d", Definition: definition(t, busyboxOp()), Exporters: []*control.Exporter{{Type: "nothing"}}},
		"unknown entitlement":     {Ref: "e", Definition: definition(t, busyboxOp()), Entitlements: []string{"everything"}},
		"exporter without client": {Ref: "f", Definition: definition(t, busyboxOp()), Exporters: []*control.Exporter{{Type: "oci"}, {Type: "local"}}},
		"image of a bad name":     {Ref: "g", Definition: definition(t, busyboxOp()), Exporters: []*control.Exporter{{Type: "image", Attrs: map[string]string{"name": "../../X"}}}},
		"inputs of no graph": {Ref: "i", Frontend: "dockerfile.v0", FrontendInputs: map[string]*pb.Definition{
			"context": {Def: [][]byte{{0xff}, {}}}, "../../x": nil, "dockerfile": {},
		}},
		"input that escapes": {Ref: "j", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"filename": "../../../../etc/passwd"}, FrontendInputs: map[string]*pb.Definition{
			"context": definition(t, busyboxOp()), "dockerfile": definition(t, busyboxOp()),
		}},
		"policy of nothing":       {Ref: "k", Definition: definition(t, busyboxOp()), SourcePolicy: &spb.Policy{Rules: []*spb.Rule{{Action: 77}}}},
		"policy with a bad match": policy(t, "l", &spb.Selector{Identifier: "(((", MatchType: spb.MatchType_REGEX}),
		"policy of another kind":  policy(t, "m", &spb.Selector{Identifier: "*", MatchType: 9}),
		"policy to nowhere":       policy(t, "n", &spb.Selector{Identifier: "*"}),
		"cache of no kind":        {Ref: "o", Definition: definition(t, busyboxOp()), Cache: &control.CacheOptions{Exports: []*control.CacheOptionsEntry{{Type: "nothing"}}}},
		"cache that is a path":    {Ref: "p", Definition: definition(t, busyboxOp()), Cache: &control.CacheOptions{Exports: []*control.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "../../X"}}}}},
		"exporter of no kind":     {Ref: "q", Definition: definition(t, busyboxOp()), Exporters: []*control.Exporter{{}}},
		"thousand exporters":      {Ref: "r", Definition: definition(t, busyboxOp()), Exporters: make([]*control.Exporter, 1000)},
		"unknown context":         {Ref: "s", Frontend: "dockerfile.v0", FrontendAttrs: map[string]string{"context": "ftp://x", "context:a": "input:b", "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "?"}},
		"giant message":           {Ref: "h", FrontendAttrs: map[string]string{"x": strings.Repeat("x", 64<<20)}},
	}
	t.Run("all", func(t *testing.T) {
		for name, r := range requests {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // they wait
				ctx, cancel := context.WithTimeout(t.Context(), waitForSession)
				defer cancel()
				_, err := ctl.Solve(ctx, r)
				if err == nil {
					t.Error("succeeded")
				}
				if c := status.Code(err); c == codes.Internal {
					t.Errorf("internal error: %v", err)
				}
				t.Logf("%.300v", err)
			})
		}
	})
	d.alive()
}

// waitForSession is longer than a daemon waits for a session that does not come.
const waitForSession = 30 * time.Second
