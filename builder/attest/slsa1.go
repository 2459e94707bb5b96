package attest

import "time"

// buildType1 says what the fields of a provenance of version 1 mean.
const buildType1 = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"

// predicate1 is SLSA's provenance, version 1 (https://slsa.dev/spec/v1.1/provenance).
type predicate1 struct {
	BuildDefinition definition1 `json:"buildDefinition"`
	RunDetails      details1    `json:"runDetails"`
}

type definition1 struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   external1      `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters"`
	ResolvedDependencies []material     `json:"resolvedDependencies,omitempty"`
}

type external1 struct {
	ConfigSource ConfigSource `json:"configSource"`
	Request      Parameters   `json:"request"`
}

type details1 struct {
	Builder  builder   `json:"builder"`
	Metadata metadata1 `json:"metadata"`
}

type builder struct {
	ID string `json:"id"`
}

type metadata1 struct {
	InvocationID string        `json:"invocationId,omitempty"`
	StartedOn    time.Time     `json:"startedOn"`
	FinishedOn   time.Time     `json:"finishedOn"`
	Extension    metadata      `json:"buildkit_metadata"`
	Hermetic     bool          `json:"buildkit_hermetic,omitempty"`
	Completeness completeness1 `json:"buildkit_completeness"`
	Reproducible bool          `json:"buildkit_reproducible,omitempty"`
}

type completeness1 struct {
	Request              bool `json:"request"`
	ResolvedDependencies bool `json:"resolvedDependencies"`
}

func (f *facts) v1() predicate1 {
	own := map[string]any{"builderPlatform": builderPlatform()}
	if f.platform != "" {
		own["targetPlatform"] = f.platform
	}
	if f.build != nil {
		own["buildConfig"] = f.build
	}
	return predicate1{
		BuildDefinition: definition1{
			BuildType:            buildType1,
			ExternalParameters:   external1{ConfigSource: f.config, Request: f.request},
			InternalParameters:   f.surroundings(own),
			ResolvedDependencies: f.materials,
		},
		RunDetails: details1{
			Builder: builder{ID: f.Builder},
			Metadata: metadata1{
				InvocationID: f.id, StartedOn: f.started, FinishedOn: f.finished, Extension: f.metadata, Hermetic: f.hermetic,
				Completeness: completeness1{Request: f.wholeRequest, ResolvedDependencies: f.wholeMaterials},
				Reproducible: f.Reproducible,
			},
		},
	}
}
