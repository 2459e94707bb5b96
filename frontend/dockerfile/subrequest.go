package dockerfile

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/buildd/buildd/frontend/dockerfile/lower"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/subrequests"
	"github.com/moby/buildkit/frontend/subrequests/convertllb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/frontend/subrequests/outline"
	"github.com/moby/buildkit/frontend/subrequests/targets"
	"github.com/moby/buildkit/solver/errdefs"
)

// subrequest answers a question about the Dockerfile. False if the request is to build it.
func (b *build) subrequest(ctx context.Context) (res *gwclient.Result, answered bool, err error) {
	name, ok := b.Opts[optRequestID]
	if !ok {
		return nil, false, nil
	}
	data, o := b.definition.Data, b.lowerOptions(ctx)
	switch name {
	case subrequests.RequestSubrequestsDescribe:
		res, err = describe()
	case outline.SubrequestsOutlineDefinition.Name:
		var out *outline.Outline
		if out, err = lower.Outline(ctx, data, o); err == nil {
			res, err = out.ToResult()
		}
	case targets.SubrequestsTargetsDefinition.Name:
		var out *targets.List
		if out, err = lower.Targets(ctx, data); err == nil {
			res, err = out.ToResult()
		}
		err = lower.WithSource(err, b.definition.SourceMap)
	case lint.SubrequestLintDefinition.Name:
		o.Warn = nil // the answer has them
		var out *lint.LintResults
		if out, err = lower.Lint(ctx, data, o); err == nil {
			res, err = out.ToResult(nil)
		}
	case convertllb.SubrequestConvertLLBDefinition.Name:
		var out *convertllb.Result
		if out, err = lower.LLB(ctx, data, o); err == nil {
			res, err = out.ToResult()
		}
	default:
		err = errdefs.NewUnsupportedSubrequestError(name)
	}
	return res, true, err
}

func describe() (*gwclient.Result, error) {
	list, err := json.MarshalIndent([]subrequests.Request{
		outline.SubrequestsOutlineDefinition,
		targets.SubrequestsTargetsDefinition,
		lint.SubrequestLintDefinition,
		convertllb.SubrequestConvertLLBDefinition,
		subrequests.SubrequestsDescribeDefinition,
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := subrequests.PrintDescribe(list, &text); err != nil {
		return nil, err
	}
	res := gwclient.NewResult()
	res.AddMeta("result.json", list)
	res.AddMeta("result.txt", text.Bytes())
	res.AddMeta("version", []byte(subrequests.SubrequestsDescribeDefinition.Version))
	return res, nil
}
