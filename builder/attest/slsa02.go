package attest

import "time"

// buildType02 says what the fields of a provenance of version 0.2 mean.
const buildType02 = "https://mobyproject.org/buildkit@v1"

// predicate02 is SLSA's provenance, version 0.2 (https://slsa.dev/spec/v0.2/provenance).
type predicate02 struct {
	Builder     builder      `json:"builder"`
	BuildType   string       `json:"buildType"`
	Materials   []material   `json:"materials,omitempty"`
	Invocation  invocation02 `json:"invocation"`
	BuildConfig *config      `json:"buildConfig,omitempty"`
	Metadata    metadata02   `json:"metadata"`
}

type invocation02 struct {
	ConfigSource configSource02 `json:"configSource"`
	Parameters   Parameters     `json:"parameters"`
	Environment  map[string]any `json:"environment"`
}

type configSource02 struct {
	URI        string            `json:"uri,omitempty"`
	Digest     map[string]string `json:"digest,omitempty"`
	EntryPoint string            `json:"entryPoint,omitempty"`
}

type metadata02 struct {
	BuildInvocationID string         `json:"buildInvocationID,omitempty"`
	BuildStartedOn    time.Time      `json:"buildStartedOn"`
	BuildFinishedOn   time.Time      `json:"buildFinishedOn"`
	Completeness      completeness02 `json:"completeness"`
	Reproducible      bool           `json:"reproducible"`
	Extension         metadata       `json:"https://mobyproject.org/buildkit@v1#metadata"`
	Hermetic          bool           `json:"https://mobyproject.org/buildkit@v1#hermetic,omitempty"`
}

type completeness02 struct {
	Parameters  bool `json:"parameters"`
	Environment bool `json:"environment"`
	Materials   bool `json:"materials"`
}

func (f *facts) v02() predicate02 {
	return predicate02{
		Builder:   builder{ID: f.Builder},
		BuildType: buildType02,
		Materials: f.materials,
		Invocation: invocation02{
			ConfigSource: configSource02{URI: f.config.URI, Digest: f.config.Digest, EntryPoint: f.config.Path},
			Parameters:   f.request,
			Environment:  f.surroundings(map[string]any{"platform": builderPlatform()}),
		},
		BuildConfig: f.build,
		Metadata: metadata02{
			BuildInvocationID: f.id, BuildStartedOn: f.started, BuildFinishedOn: f.finished,
			Completeness: completeness02{Parameters: f.wholeRequest, Environment: true, Materials: f.wholeMaterials},
			Reproducible: f.Reproducible, Extension: f.metadata, Hermetic: f.hermetic,
		},
	}
}
