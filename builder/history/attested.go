package history

import (
	"context"
	"fmt"

	"github.com/buildd/buildd/builder"
	control "github.com/moby/buildkit/api/services/control"
)

const (
	mediaTypeInToto = "application/vnd.in-toto+json"
	// annotationPredicate says what an attestation states.
	annotationPredicate = "in-toto.io/predicate-type"
)

// saveAttested saves the provenance of a build's results.
func (s *Store) saveAttested(ctx context.Context, rec *control.BuildHistoryRecord, list []builder.Attested) error {
	for _, a := range list {
		data, err := a.Predicate(ctx)
		if err != nil {
			return fmt.Errorf("save provenance: %w", err)
		}
		d, err := s.saveBlob(ctx, mediaTypeInToto, data)
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{annotationPredicate: a.PredicateType}
		info := resultOf(rec, a.Platform)
		info.Attestations = append(info.Attestations, d)
	}
	return nil
}

// resultOf returns what the record has of the result for a platform; "" is the
// result that is by no platform.
func resultOf(rec *control.BuildHistoryRecord, platform string) *control.BuildResultInfo {
	if platform == "" {
		if rec.Result == nil {
			rec.Result = &control.BuildResultInfo{}
		}
		return rec.Result
	}
	if rec.Results == nil {
		rec.Results = map[string]*control.BuildResultInfo{}
	}
	if rec.Results[platform] == nil {
		rec.Results[platform] = &control.BuildResultInfo{}
	}
	return rec.Results[platform]
}
