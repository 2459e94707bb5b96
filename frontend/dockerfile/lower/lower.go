package lower

import (
	"context"
	"errors"
	"time"

	"github.com/moby/buildkit/client/llb"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests/convertllb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// scratch is the name of the base that is no image.
const scratch = "scratch"

// Result is a lowered Dockerfile.
type Result struct {
	State     llb.State                  // the root file system of the target; marshalling it needs no further option
	Image     dockerspec.DockerOCIImage  // its config; RootFS.DiffIDs and times are the exporter's to fill in
	BaseImage *dockerspec.DockerOCIImage // the config of the image that it is based on, nil for scratch
	Epoch     *time.Time                 // SOURCE_DATE_EPOCH, nil if not set
	Scan      ScanTargets                // what a software bill of materials shall cover
	NoCache   bool                       // the target, or something in Scan, must run although it is cached
}

// ScanTargets are the states that BUILDKIT_SBOM_SCAN_CONTEXT and BUILDKIT_SBOM_SCAN_STAGE ask to be scanned.
type ScanTargets struct {
	Core   llb.State            // the target
	Extras map[string]llb.State // by name of the stage; "context" is the build context
}

// Lower reads a Dockerfile and lowers the target stage and what it needs. An error that the Dockerfile is to blame for carries
// its place in it, as errdefs.Source if o.SourceMap is set.
func Lower(ctx context.Context, src []byte, o Options) (*Result, error) {
	return nil, errors.New("not there yet")
}

// LLB answers the subrequest frontend.convertllb: the definition of the target, op by op.
func LLB(ctx context.Context, src []byte, o Options) (*convertllb.Result, error) {
	return nil, errors.New("not there yet")
}

// Outline answers the subrequest frontend.outline: the arguments, secrets and agents that building the target involves.
func Outline(ctx context.Context, src []byte, o Options) (*outline.Outline, error) {
	return nil, errors.New("not there yet")
}

// Targets answers the subrequest frontend.targets: the stages of a Dockerfile.
func Targets(ctx context.Context, src []byte) (*targets.List, error) {
	return nil, errors.New("not there yet")
}

// Lint answers the subrequest frontend.lint: which rules the target breaks, and all stages if o.Target is empty. It needs
// o.SourceMap. What keeps the Dockerfile from being lowered is part of the answer, not an error.
func Lint(ctx context.Context, src []byte, o Options) (*lint.LintResults, error) {
	return nil, errors.New("not there yet")
}

// WithSource adds the places in the Dockerfile that err knows (parser.LocationError) as errdefs.Source, which clients print.
// Lower, LLB and Outline have done it already for the errors that they return.
func WithSource(err error, sm *llb.SourceMap) error {
	return err
}

// SourceTime is how Contexts.SourceTime is done with a gateway: the committer's time of a git source, Last-Modified of an HTTP
// source, or the newest file of the archive that it is.
func SourceTime(ctx context.Context, c gwclient.Client, st llb.State, what string) (*time.Time, error) {
	return nil, errors.New("not there yet")
}

func internalName(name string) llb.ConstraintsOpt { return llb.WithCustomName("[internal] " + name) }
