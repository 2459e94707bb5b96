package lower

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// countVertex makes the next vertex of a stage the current one for title.
func (s *stage) countVertex() { s.number++ }

// title is the name of the current vertex of a stage as clients show it: "[linux/arm64 build 2/5] RUN make".
func (l *lowering) title(s *stage, text string, env shell.EnvGetter) string {
	text = strings.ToValidUTF8(text, "\uFFFD") // names travel in messages that take nothing else
	if s.external() {
		return text
	}
	var b strings.Builder
	b.WriteByte('[')
	if l.o.MultiPlatform && s.platform != nil {
		b.WriteString(platforms.FormatAll(*s.platform) + crossSuffix(*s.platform, env) + " ")
	}
	if s.label != "" {
		b.WriteString(s.label + " ")
	}
	width := len(fmt.Sprint(s.total))
	fmt.Fprintf(&b, "%*d/%d] ", width, s.number, s.total)
	if s.inTrigger {
		b.WriteString("ONBUILD ")
	}
	b.WriteString(text)
	return b.String()
}

// upper writes the name of an instruction as everybody reads it.
func upper(text string) string {
	name, rest, ok := strings.Cut(text, " ")
	if !ok {
		return strings.ToUpper(name)
	}
	return strings.ToUpper(name) + " " + rest
}

func internalName(name string) llb.ConstraintsOpt { return llb.WithCustomName("[internal] " + name) }

// describe keeps the instruction as it was written beside its vertex.
func describe(code string) llb.ConstraintsOpt {
	if code == "" {
		return llb.WithDescription(nil)
	}
	return llb.WithDescription(map[string]string{"com.docker.dockerfile.v1.command": strings.ToValidUTF8(code, "\uFFFD")})
}

// where tells clients which lines a vertex comes from.
func (l *lowering) where(lines []parser.Range) llb.ConstraintsOpt {
	return l.o.SourceMap.Location(pbRanges(lines))
}

// groupID begins the IDs of the progress groups of one lowering. They must differ between the platforms of a build, and not between
// two runs of it.
func groupID(src []byte, o *Options) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", platforms.FormatAll(o.target()), o.Target)
	h.Write(src)
	return hex.EncodeToString(h.Sum(nil)[:8])
}
