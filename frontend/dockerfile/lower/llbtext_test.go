package lower

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"
)

// llbText writes a definition in a form to be read and compared: one paragraph for each op, its inputs by number, every field
// that is set, and what its metadata says.
func llbText(t *testing.T, def *llb.Definition) string {
	var b strings.Builder
	numbers := map[string]int{}
	for i, raw := range def.Def {
		dgst := digest.FromBytes(raw)
		numbers[dgst.String()] = i + 1
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			t.Fatal(err)
		}
		if op.Op == nil { // the last one only names the result
			fmt.Fprintf(&b, "result %s\n", inputText(op.Inputs[0], numbers))
			continue
		}
		meta := def.Metadata[dgst]
		fmt.Fprintf(&b, "#%d %s", i+1, opText(t, &op, numbers))
		writeMeta(&b, meta, def.Source.Locations[dgst.String()])
	}
	return b.String()
}

func inputText(in *pb.Input, numbers map[string]int) string {
	if in.Index != 0 {
		return fmt.Sprintf("#%d.%d", numbers[in.Digest], in.Index)
	}
	return fmt.Sprintf("#%d", numbers[in.Digest])
}

func opText(t *testing.T, op *pb.Op, numbers map[string]int) string {
	raw, err := protojson.Marshal(op)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, kind := range []string{"source", "exec", "file", "merge", "diff", "build"} {
		if v, ok := m[kind]; ok {
			b.WriteString(kind)
			if p := platformText(op.Platform); p != "linux/amd64" {
				b.WriteString(" on " + p)
			}
			for _, in := range op.Inputs {
				b.WriteString(" " + inputText(in, numbers))
			}
			b.WriteByte('\n')
			writeFields(&b, "  ", v)
			delete(m, kind)
		}
	}
	for _, k := range []string{"inputs", "platform", "constraints"} {
		delete(m, k)
	}
	writeFields(&b, "  ", m)
	return b.String()
}

func platformText(p *pb.Platform) string {
	if p == nil {
		return "any"
	}
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

func writeFields(b *strings.Builder, indent string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == "local.unique" { // a new one for every definition
				continue
			}
			switch x := v[k].(type) {
			case map[string]any:
				fmt.Fprintf(b, "%s%s\n", indent, k)
				writeFields(b, indent+"  ", x)
			case []any:
				fmt.Fprintf(b, "%s%s\n", indent, k)
				writeFields(b, indent+"  ", x)
			default:
				if k == "data" {
					if raw, err := base64.StdEncoding.DecodeString(fmt.Sprint(x)); err == nil {
						x = fmt.Sprintf("%q", raw)
					}
				}
				fmt.Fprintf(b, "%s%s: %v\n", indent, k, x)
			}
		}
	case []any:
		for _, x := range v {
			switch x := x.(type) {
			case map[string]any:
				fmt.Fprintf(b, "%s-\n", indent)
				writeFields(b, indent+"  ", x)
			default:
				fmt.Fprintf(b, "%s- %s\n", indent, strings.ReplaceAll(fmt.Sprint(x), "\n", `\n`))
			}
		}
	}
}

func writeMeta(b *strings.Builder, m llb.OpMetadata, where *pb.Locations) {
	if m.IgnoreCache {
		b.WriteString("  ignore cache\n")
	}
	for _, k := range slices.Sorted(maps.Keys(m.Description)) {
		name := map[string]string{"llb.customname": "name", "com.docker.dockerfile.v1.command": "command"}[k]
		if name == "" {
			name = k
		}
		fmt.Fprintf(b, "  %s: %s\n", name, strings.ReplaceAll(m.Description[k], "\n", `\n`))
	}
	if g := m.ProgressGroup; g != nil {
		fmt.Fprintf(b, "  group: %s (weak %t)\n", g.Name, g.Weak)
	}
	if m.LinuxResources != nil {
		fmt.Fprintf(b, "  resources: memory %d, quota %d\n", m.LinuxResources.Memory, m.LinuxResources.CpuQuota)
	}
	if where != nil {
		for _, l := range where.Locations {
			var lines []string
			for _, r := range l.Ranges {
				lines = append(lines, fmt.Sprint(r.Start.Line))
			}
			fmt.Fprintf(b, "  lines: %s\n", strings.Join(lines, " "))
		}
	}
}
