package lower

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// triggerImage is the config of an image with triggers.
func triggerImage(t testing.TB, triggers []string) string {
	img := emptyImage(amd64)
	img.RootFS.DiffIDs = []digest.Digest{digest.FromString("x")}
	img.Config.OnBuild = triggers
	b, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOptionsAreNotChanged(t *testing.T) {
	world := &fakeWorld{sourceTime: 1234}
	args := map[string]string{"SOURCE_DATE_EPOCH": "context", "a": "b"}
	r, err := Lower(context.Background(), []byte("FROM busybox\nARG SOURCE_DATE_EPOCH"), Options{BuildArgs: args, Contexts: world, MetaResolver: world})
	if err != nil {
		t.Fatal(err)
	}
	if args["SOURCE_DATE_EPOCH"] != "context" || len(args) != 2 {
		t.Errorf("arguments are now %v", args)
	}
	if r.Epoch == nil || r.Epoch.Unix() != 1234 {
		t.Errorf("epoch is %v", r.Epoch)
	}
}

func TestNoContexts(t *testing.T) {
	r, err := Lower(context.Background(), []byte("FROM scratch\nCOPY a b"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	def, err := r.State.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if text := llbText(t, def); !strings.Contains(text, "identifier: local://context") {
		t.Errorf("no local context in\n%s", text)
	}
	if _, err := Lower(context.Background(), []byte("FROM busybox"), Options{}); !errors.Is(err, errNoResolver) {
		t.Errorf("without a resolver: %v", err)
	}
}

// TestPlatformsAtOnce lowers one Dockerfile for several platforms with the same options and contexts, as a build does.
func TestPlatformsAtOnce(t *testing.T) {
	world := &fakeWorld{contexts: map[string]string{"files": "local"}}
	src := []byte("FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETARCH\nRUN make $TARGETARCH\nFROM busybox\nCOPY --link --from=b /a /a\nCOPY --from=files x y\nCOPY z z")
	o := Options{Contexts: world, MetaResolver: world, MultiPlatform: true, BuildPlatforms: []ocispecs.Platform{amd64}, BuildArgs: map[string]string{"a": "b"}}
	var wg sync.WaitGroup
	groups := make([]string, 4)
	for i, arch := range []string{"amd64", "arm64", "s390x", "riscv64"} {
		wg.Go(func() {
			o := o
			o.TargetPlatform = &ocispecs.Platform{OS: "linux", Architecture: arch}
			r, err := Lower(context.Background(), src, o)
			if err != nil {
				t.Error(err)
				return
			}
			def, err := r.State.Marshal(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			for _, m := range def.Metadata {
				if m.ProgressGroup != nil {
					groups[i] = m.ProgressGroup.Id
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{"": true}
	for _, g := range groups {
		if seen[g] {
			t.Errorf("progress groups %q are not one for each platform", groups)
		}
		seen[g] = true
	}
}

// countingWorld counts how often it is asked for the build context.
type countingWorld struct {
	fakeWorld
	main, ignored int
}

func (w *countingWorld) Main(ctx context.Context, o ...llb.LocalOption) (*llb.State, error) {
	w.main++
	return w.fakeWorld.Main(ctx, o...)
}

func (w *countingWorld) Ignored(ctx context.Context) ([]string, error) {
	w.ignored++
	return w.fakeWorld.Ignored(ctx)
}

func TestContextIsLoadedOnlyIfUsed(t *testing.T) {
	for src, want := range map[string][2]int{
		"RUN x":                                         {0, 0},
		"COPY --from=alpine a b":                        {0, 0},
		"COPY <<EOF /f\nEOF":                            {0, 1},
		"COPY a b\nADD c d":                             {1, 1},
		"ADD https://example.com/x /":                   {0, 1},
		"RUN --mount=target=/c x":                       {1, 0},
		"RUN --mount=type=cache,target=/c x":            {0, 0},
		"RUN --mount=type=tmpfs,target=/c x":            {0, 0},
		"FROM busybox AS unused\nCOPY a b\nFROM alpine": {0, 0},
	} {
		w := &countingWorld{}
		r, err := Lower(context.Background(), []byte("FROM busybox\n"+src), Options{Contexts: w, MetaResolver: w})
		if err != nil {
			t.Errorf("%q: %v", src, err)
			continue
		}
		if _, err := r.State.Marshal(context.Background()); err != nil {
			t.Errorf("%q: %v", src, err)
		}
		if got := [2]int{w.main, w.ignored}; got != want {
			t.Errorf("%q: context and its ignored paths were asked for %v times, want %v", src, got, want)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := Lower(ctx, []byte("FROM scratch\nRUN x"), Options{}); !errors.Is(err, gone) {
		t.Errorf("lowering went on: %v", err)
	}
}

// slowResolver counts how many images are asked for at a time.
type slowResolver struct {
	fakeWorld
	barrier *sync.WaitGroup
}

func (r *slowResolver) ResolveImageConfig(ctx context.Context, ref string, o sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	r.barrier.Done()
	r.barrier.Wait() // ends only if all are here
	return r.fakeWorld.ResolveImageConfig(ctx, ref, o)
}

func TestBasesAreResolvedAtATime(t *testing.T) {
	r := &slowResolver{barrier: &sync.WaitGroup{}}
	r.barrier.Add(3)
	_, err := Lower(context.Background(), []byte("FROM busybox AS a\nFROM alpine AS b\nFROM debian\nCOPY --from=a / /\nCOPY --from=b / /"), Options{MetaResolver: r})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWithSource(t *testing.T) {
	sm := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", []byte("FROM x\n"))
	where := []parser.Range{{Start: parser.Position{Line: 1}, End: parser.Position{Line: 1}}}
	err := WithSource(fmt.Errorf("outer: %w", parser.WithLocation(errors.New("inner"), where)), sm)
	if n := len(errdefs.Sources(err)); n != 1 {
		t.Errorf("%d sources", n)
	}
	if n := len(errdefs.Sources(WithSource(err, sm))); n != 1 {
		t.Errorf("%d sources the second time", n)
	}
	plain := errors.New("plain")
	if got := WithSource(plain, sm); got != plain {
		t.Errorf("an error without a place became %v", got)
	}
	if err := WithSource(nil, sm); err != nil {
		t.Errorf("no error became %v", err)
	}
}

// TestExpansionIsBounded checks that the bounds hold however the output is reached.
func TestExpansionIsBounded(t *testing.T) {
	kilo := strings.Repeat("x", 1000)
	rep := func(line string, n int) string { return strings.Repeat(line+"\n", n) }
	for name, c := range map[string]struct{ src, want string }{
		"doubled":             {"ENV a=" + kilo + "\n" + rep("ENV a=$a$a", 30), "it may become"},
		"arguments":           {"ARG a=" + kilo + "\n" + rep("ARG a=$a$a", 30), "it may become"},
		"default":             {"ENV a=" + kilo + "\n" + rep("ENV a=${b:-$a$a}", 30), "it may become"},
		"replaced":            {"ENV a=" + kilo + "\n" + rep("ENV a=${a//x/$a}", 5), "it may become"},
		"nested":              {"ENV a=" + kilo + "\n" + rep("ENV a=${a//x/${a//x/$a}}", 3), "it may become"},
		"deep":                {"ENV a=" + kilo + "\nENV b=" + strings.Repeat("${a:-", 5000) + "\n", "it may become"},
		"heredoc":             {"ENV a=" + kilo + "\n" + rep("ENV a=$a$a", 9) + "COPY <<EOF /f\n" + strings.Repeat("$a", 100) + "\nEOF\n", "it may become"},
		"pattern":             {"ENV a=" + kilo + "\n" + rep("ENV a=$a$a", 7) + "ENV c=${a//" + strings.Repeat("y", 1<<14) + "/z}\n", "takes too long"},
		"many":                {"ENV a=" + kilo + "\n" + rep("LABEL l=$a", 1000), "becomes more"},
		"history of RUN":      {"ARG a=" + kilo + "\n" + rep("RUN x", 1000), "becomes more"},
		"environment of RUN":  {"ENV a=" + kilo + "\n" + rep("RUN x", 1000), "becomes more"},
		"ports":               {rep("EXPOSE 1-65535", 2), "becomes more"},
		"many variables":      {"ENV" + strings.Repeat(" a=b", 10_000) + "\n", "becomes more"},
		"many instructions":   {rep("USER a", 10_000), "becomes more"},
		"inherited history":   {rep("USER a\nFROM b AS b", 100), "becomes more"},
		"inherited arguments": {rep("ARG a\nFROM b AS b", 100), "becomes more"},
		"global arguments":    {"", "becomes more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := "FROM scratch AS b\n" + c.src
			if name == "global arguments" {
				for i := range 100 {
					src = fmt.Sprintf("ARG a%d\n%sFROM b AS b\n", i, src)
				}
			}
			o := Options{}
			if c.want == "becomes more" {
				o.maxOutput = 1 << 20
			}
			_, err := Lower(context.Background(), []byte(src), o)
			var l *parser.LocationError
			if !errors.As(err, &l) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.200v", err)
			}
			if err != nil && len(err.Error()) > 4096 {
				t.Errorf("the error alone has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestBigDockerfile is as much as anybody writes, and more.
func TestBigDockerfile(t *testing.T) {
	var src strings.Builder
	src.WriteString("FROM busybox AS s0\n")
	for i := range 300 {
		fmt.Fprintf(&src, "FROM s%d AS s%d\nARG a%d=1\nENV e%d=some/path:and/more COPY=x\nRUN make $e%d\nLABEL l%d=x\n", i, i+1, i, i, i, i)
	}
	if _, err := Lower(context.Background(), []byte(src.String()), Options{MetaResolver: &fakeWorld{}}); err != nil {
		t.Error(err)
	}
	if _, err := Lower(context.Background(), []byte("FROM scratch\nENV a="+strings.Repeat("${b:-", maxVariables+1)), Options{}); err == nil {
		t.Error("variables may be nested without end")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"build", "builder", "größe", "a-name-that-is-much-longer"}
	for name, want := range map[string]string{
		"bulid": "build", "biulder": "builder", "build": "", "zzz": "", "": "", "grösse": "größe", "buil": "build",
	} {
		if got := nearest(name, known); got != want {
			t.Errorf("nearest to %q is %q, want %q", name, got, want)
		}
	}
}

// TestEditDistance compares with the plain algorithm.
func TestEditDistance(t *testing.T) {
	plain := func(a, b []rune) int {
		row := make([]int, len(b)+1)
		for j := range row {
			row[j] = j
		}
		for i := range a {
			diag := row[0]
			row[0] = i + 1
			for j := range b {
				cost := diag
				if a[i] != b[j] {
					cost = 1 + min(diag, row[j], row[j+1])
				}
				diag, row[j+1] = row[j+1], cost
			}
		}
		return row[len(b)]
	}
	rng := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		w := make([]byte, rng.IntN(7))
		for i := range w {
			w[i] = "abc"[rng.IntN(3)]
		}
		return string(w)
	}
	for range 20_000 {
		a, b := word(), word()
		want := min(3, plain([]rune(a), []rune(b)))
		if got := min(3, editDistance(a, b, 3)); got != want {
			t.Fatalf("from %q to %q are %d edits, not %d", a, b, want, got)
		}
	}
}

func TestCleanPath(t *testing.T) {
	for _, c := range []struct {
		dir, path, os string
		keep          bool
		want          string
	}{
		{"/w", "a", "linux", false, "/w/a"},
		{"/w", "a/", "linux", true, "/w/a/"},
		{"/w", "a/.", "linux", true, "/w/a/."},
		{"/w", "/", "linux", true, "/"},
		{"/w", "/.", "linux", true, "/."},
		{"/w", "../../..", "linux", true, "/"},
		{"w", "x", "linux", false, "/w/x"},
		{"", "x", "linux", false, "/x"},
		{"/w", "", "linux", false, "/w"},
		{"/w", `c:\a\b\`, windows, true, "/a/b/"},
		{`C:\w`, `a\b`, windows, false, "/w/a/b"},
		{"/", `c:a`, windows, false, "/a"},
	} {
		if got, err := cleanPath(c.dir, c.path, c.os, c.keep); err != nil || got != c.want {
			t.Errorf("cleanPath(%q, %q, %s, %t) = %q, %v, want %q", c.dir, c.path, c.os, c.keep, got, err, c.want)
		}
	}
	for _, p := range []string{`d:\a`, `c:`, `\\host\share`} {
		if got, err := cleanPath("/", p, windows, false); err == nil {
			t.Errorf("cleanPath(%q) = %q", p, got)
		}
	}
}

// TestInvalidUTF8 refuses commands that LLB cannot hold and keeps all else printable.
func TestInvalidUTF8(t *testing.T) {
	o := Options{MetaResolver: &fakeWorld{}}
	for _, line := range []string{"RUN echo \xff $a", "COPY a\xff b", "USER \xfe", "WORKDIR /\xe4", "RUN <<EOF\n\xff\nEOF"} {
		_, err := Lower(context.Background(), []byte("FROM busybox\n"+line), o)
		if err == nil || !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("%q: %v", line, err)
		}
	}
	r, err := Lower(context.Background(), []byte("FROM busybox\n# \xff\nMAINTAINER J\xf6rg\nENV a=\xff b=\xff$a\nCOPY <<EOF /f\nraw \xff\nEOF\nRUN x $b\n"), o)
	if err != nil {
		t.Fatal(err)
	}
	def, err := r.State.Marshal(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range def.Metadata {
		if strings.Contains(fmt.Sprint(m.Description), "\xff") {
			t.Errorf("name %q", m.Description)
		}
	}
}

const benchDockerfile = `# a build of the usual kind
ARG GO=1.26
FROM --platform=$BUILDPLATFORM busybox AS base
WORKDIR /src
ENV CGO_ENABLED=0 GOFLAGS=-mod=mod PATH=/go/bin:$PATH
FROM base AS deps
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
FROM deps AS build
ARG TARGETOS TARGETARCH
ARG VERSION=dev
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache \
    --mount=type=secret,id=token \
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -ldflags "-X main.version=${VERSION:-none}" -o /out/app ./cmd/app
FROM alpine AS runtime
RUN <<EOF
adduser -D app
mkdir -p /data
adduser -D app
mkdir -p /data
EOF
COPY --link --from=build /out/app /usr/bin/app
COPY <<EOF /etc/app.conf
listen = 80
EOF
USER app
EXPOSE 80 443
VOLUME /data
LABEL org.example.version=${VERSION}
HEALTHCHECK --interval=5s CMD ["app", "check"]
ENTRYPOINT ["app"]
CMD ["serve"]
`

func BenchmarkLower(b *testing.B) {
	world := &fakeWorld{}
	o := Options{Contexts: world, MetaResolver: world, BuildPlatforms: []ocispecs.Platform{amd64}}
	b.ReportAllocs()
	for b.Loop() {
		r, err := Lower(context.Background(), []byte(benchDockerfile), o)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.State.Marshal(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLowerLong lowers a Dockerfile with thousands of instructions, which must cost no more than in proportion.
func BenchmarkLowerLong(b *testing.B) {
	for _, n := range []int{500, 2000} {
		var src strings.Builder
		src.WriteString("FROM busybox\n")
		for i := range n {
			fmt.Fprintf(&src, "ENV v%d=$v%d\nRUN make $v%d\n", i, max(0, i-1), i)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			world := &fakeWorld{}
			for b.Loop() {
				if _, err := Lower(context.Background(), []byte(src.String()), Options{MetaResolver: world}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/step")
		})
	}
}
