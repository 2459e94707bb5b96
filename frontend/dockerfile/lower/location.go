package lower

import (
	"errors"
	"slices"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// at gives an error its place in the Dockerfile, unless it knows a more exact one.
func at(err error, where []parser.Range) error {
	var l *parser.LocationError
	if err == nil || len(where) == 0 || errors.As(err, &l) {
		return err
	}
	return parser.WithLocation(err, where)
}

// WithSource adds the places in the Dockerfile that err knows (parser.LocationError) as errdefs.Source, which clients print.
// Lower, LLB and Outline have done it already for the errors that they return; doing it again changes nothing.
func WithSource(err error, sm *llb.SourceMap) error {
	var l *parser.LocationError
	var s *errdefs.SourceError
	if sm == nil || !errors.As(err, &l) || errors.As(err, &s) {
		return err
	}
	info := &pb.SourceInfo{Filename: sm.Filename, Language: sm.Language, Data: sm.Data}
	if sm.Definition != nil {
		info.Definition = sm.Definition.ToPB()
	}
	for _, where := range l.Locations {
		err = errdefs.WithSource(err, &errdefs.Source{Info: info, Ranges: pbRanges(where)})
	}
	return err
}

func pbRanges(where []parser.Range) []*pb.Range {
	out := make([]*pb.Range, len(where))
	for i, r := range where {
		out[i] = &pb.Range{
			Start: &pb.Position{Line: int32(r.Start.Line), Character: int32(r.Start.Character)},
			End:   &pb.Position{Line: int32(r.End.Line), Character: int32(r.End.Character)},
		}
	}
	return out
}

// pbLocation is nil for a place that is not known.
func pbLocation(where []parser.Range) *pb.Location {
	if len(where) == 0 {
		return nil
	}
	return &pb.Location{Ranges: pbRanges(where)}
}

// firstLine is 0 for a place that is not known.
func firstLine(l *pb.Location) int32 {
	if l == nil || len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}

// merged joins places that share lines, in the order of lines.
func merged(places [][]parser.Range) []parser.Range {
	all := slices.Concat(places...)
	slices.SortStableFunc(all, func(a, b parser.Range) int { return a.Start.Line - b.Start.Line })
	out := []parser.Range{}
	for _, r := range all {
		if n := len(out); n > 0 && r.Start.Line <= out[n-1].End.Line {
			out[n-1].End.Line = max(out[n-1].End.Line, r.End.Line)
			continue
		}
		out = append(out, r)
	}
	return out
}

// lineSpan returns the first and the last line of a place, 0 and 0 if it is not known.
func lineSpan(where []parser.Range) (first, last int) {
	for i, r := range where {
		if i == 0 || r.Start.Line < first {
			first = r.Start.Line
		}
		last = max(last, r.End.Line)
	}
	return first, last
}
