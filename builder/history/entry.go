package history

import (
	"context"
	"fmt"
	"maps"

	"github.com/buildd/buildd/builder"
	"github.com/buildd/buildd/builder/export"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	mediaTypeInToto = "application/vnd.in-toto+json"
	// annotationPredicate says what an attestation states.
	annotationPredicate = "in-toto.io/predicate-type"
)

// entry is a record with what belongs to it.
type entry struct {
	rec   *control.BuildHistoryRecord
	steps []byte // explainv1.WhyResponse
	blobs map[digest.Digest][]byte
	ready chan struct{} // closed when all of it is there
}

func newEntry(rec *control.BuildHistoryRecord) *entry {
	return &entry{rec: rec, blobs: map[digest.Digest][]byte{}, ready: make(chan struct{})}
}

// blob adds a blob and describes it.
func (e *entry) blob(mediaType string, data []byte) *control.Descriptor {
	d := digest.FromBytes(data)
	e.blobs[d] = data
	return &control.Descriptor{MediaType: mediaType, Digest: d.String(), Size: int64(len(data))}
}

// response is what records keep of the metadata of a result, as BuildKit does,
// and of what exporters answered.
func response(out builder.Outcome) map[string]string {
	all := map[string]string{}
	for k, v := range out.Metadata {
		all[k] = string(v)
	}
	maps.Copy(all, out.Response)
	return all
}

// results adds what the exporters made.
func (e *entry) results(list []*export.Result) {
	for i, r := range list {
		if r == nil || r.Descriptor == nil {
			continue
		}
		info := e.result("")
		if info.Results == nil {
			info.Results = map[int64]*control.Descriptor{}
		}
		d := &control.Descriptor{
			MediaType: r.Descriptor.MediaType, Digest: r.Descriptor.Digest.String(), Size: r.Descriptor.Size, Annotations: r.Descriptor.Annotations,
		}
		info.Results[int64(i)] = d
		if info.ResultDeprecated == nil {
			info.ResultDeprecated = d
		}
	}
}

// result returns what the record has of the result for a platform; "" is the
// result that is by no platform.
func (e *entry) result(platform string) *control.BuildResultInfo {
	if platform == "" {
		if e.rec.Result == nil {
			e.rec.Result = &control.BuildResultInfo{}
		}
		return e.rec.Result
	}
	if e.rec.Results == nil {
		e.rec.Results = map[string]*control.BuildResultInfo{}
	}
	if e.rec.Results[platform] == nil {
		e.rec.Results[platform] = &control.BuildResultInfo{}
	}
	return e.rec.Results[platform]
}

// attest adds the provenance of a build's results.
func (e *entry) attest(ctx context.Context, list []builder.Attested) error {
	for _, a := range list {
		data, err := a.Predicate(ctx)
		if err != nil {
			return fmt.Errorf("save provenance: %w", err)
		}
		d := e.blob(mediaTypeInToto, data)
		d.Annotations = map[string]string{annotationPredicate: a.PredicateType}
		info := e.result(a.Platform)
		info.Attestations = append(info.Attestations, d)
	}
	return nil
}

// fail adds the error of a build: all of it as a blob, what can be shown in the
// record.
func (e *entry) fail(ctx context.Context, err error) error {
	st, ok := grpcerrors.AsGRPCStatus(grpcerrors.ToGRPC(ctx, err))
	if !ok {
		st = status.New(grpcerrors.Code(err), err.Error())
	}
	p := st.Proto()
	b, merr := proto.Marshal(p)
	if merr != nil {
		return fmt.Errorf("save error: %w", merr)
	}
	e.rec.ExternalError = e.blob(mediaTypeError, b)
	p.Details = nil
	e.rec.Error = p
	return nil
}
