package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/buildd/buildd/cache"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Input is the outcome of a build. Exporters read it only.
type Input struct {
	// Platforms are in the order that the frontend gave them. There is at least
	// one.
	Platforms []Platform
	// Multi says that the frontend answered per platform, be it for a single one:
	// images become an index, files go to a directory per platform.
	Multi bool
	// Metadata is the frontend's, platforms' keys included.
	Metadata map[string][]byte
	// Epoch is SOURCE_DATE_EPOCH for all platforms, nil without one.
	Epoch *time.Time
	// Attestations are by platform ID.
	Attestations map[string][]Attestation
	// InlineCache returns what an image carries to be imported as a cache from;
	// nil if no inline cache was asked for. layers are those of the image's
	// manifest. A nil answer means that there is nothing to carry.
	InlineCache func(ctx context.Context, platformID string, layers []ocispecs.Descriptor) ([]byte, error)
}

// Platform is the outcome for one platform.
type Platform struct {
	// ID is the frontend's name for the platform, such as "linux/amd64".
	ID string
	ocispecs.Platform
	// Tree is the root file system; the empty Tree is an image without layers.
	Tree cache.Tree
	// Config is the image config as JSON; nil if the frontend made none.
	Config []byte
	// BaseConfig is the config of the image that this one is built upon; nil
	// without one. Its history keeps its times.
	BaseConfig []byte
	// Epoch is SOURCE_DATE_EPOCH for this platform where Input.Epoch is nil.
	Epoch *time.Time
}

// NewInput reads what a frontend returned: either one tree, or refs by platform
// ID, which then must be listed in the metadata's refs.platforms.
func NewInput(one cache.Tree, refs map[string]cache.Tree, metadata map[string][]byte) (Input, error) {
	in := Input{Multi: len(refs) > 0, Metadata: metadata}
	if _, ok := metadata[exptypes.ExporterPlatformsKey]; in.Multi && !ok {
		return in, errors.New("the result has several references but no platforms mapping (refs.platforms)")
	}
	ps, err := exptypes.ParsePlatforms(metadata)
	if err != nil {
		return in, fmt.Errorf("read platforms of the result: %w", err)
	}
	if !in.Multi && len(ps.Platforms) > 1 {
		return in, fmt.Errorf("the result names %d platforms but has a single reference", len(ps.Platforms))
	}
	for _, p := range ps.Platforms {
		t, ok := one, true
		if in.Multi {
			t, ok = refs[p.ID]
		}
		if !ok {
			return in, fmt.Errorf("the result has no reference for platform %q", p.ID)
		}
		in.Platforms = append(in.Platforms, Platform{ID: p.ID, Platform: p.Platform, Tree: t})
	}
	return in, in.readMetadata()
}

// with returns the input with metadata that an exporter's attributes add.
// BuildKit takes every attribute that it does not know for metadata, and users
// rely on it to give an image config along.
func (in Input) with(metadata map[string]string) (Input, error) {
	if len(metadata) == 0 {
		return in, nil
	}
	in.Metadata = maps.Clone(in.Metadata)
	if in.Metadata == nil {
		in.Metadata = map[string][]byte{}
	}
	for k, v := range metadata {
		in.Metadata[k] = []byte(v)
	}
	in.Platforms = append([]Platform(nil), in.Platforms...)
	return in, in.readMetadata()
}

// readMetadata sets what Metadata says on the platforms. What it does not
// mention stays as it is.
func (in *Input) readMetadata() error {
	epoch, err := metadataEpoch(in.Metadata, commonexptypes.ExporterEpochKey)
	if err != nil {
		return err
	}
	if epoch != nil {
		in.Epoch = epoch
	}
	for i := range in.Platforms {
		p := &in.Platforms[i]
		key := &exptypes.Platform{ID: p.ID}
		if v := exptypes.ParseKey(in.Metadata, exptypes.ExporterImageConfigKey, key); v != nil {
			p.Config = v
		}
		if v := exptypes.ParseKey(in.Metadata, exptypes.ExporterImageBaseConfigKey, key); v != nil {
			p.BaseConfig = v
		}
		epoch, err := metadataEpoch(in.Metadata, commonexptypes.ExporterEpochKey+"/"+p.ID)
		if err != nil {
			return err
		}
		if epoch != nil {
			p.Epoch = epoch
		}
	}
	return nil
}

func metadataEpoch(metadata map[string][]byte, key string) (*time.Time, error) {
	v, ok := metadata[key]
	if !ok {
		return nil, nil
	}
	t, err := parseEpoch(string(v))
	if err != nil {
		return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH from frontend: %w", err)
	}
	return t, nil
}

// epoch is SOURCE_DATE_EPOCH as one exporter sees it. An exporter's attribute
// counts more than what the frontend says, even if it is empty: then there is
// none.
type epoch struct {
	set   bool
	value *time.Time
}

// of returns the time that p's timestamps are clamped to; nil for none.
func (e epoch) of(in Input, p Platform) *time.Time {
	switch {
	case e.set:
		return e.value
	case in.Epoch != nil:
		return in.Epoch
	default:
		return p.Epoch
	}
}

// all returns the time that counts for what belongs to no platform.
func (e epoch) all(in Input) *time.Time {
	if e.set {
		return e.value
	}
	return in.Epoch
}

func parseEpoch(v string) (*time.Time, error) {
	if v == "" {
		return nil, nil
	}
	sec, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is not a number of seconds since 1970-01-01 UTC", v)
	}
	t := time.Unix(sec, 0).UTC()
	return &t, nil
}
