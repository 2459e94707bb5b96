package build

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/buildd/buildd/cmd/buildctl/option"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"maps"
)

// buildkit reads a command line of BuildKit's form.
func (f *flags) buildkit(r *request) error {
	if f.frontend == "" && terminal(os.Stdin) {
		return errNothing
	}
	if err := f.refuse(ofDocker, "wants a CONTEXT, such as a dot at the end of the command; with --frontend the same is said with --opt and --output"); err != nil {
		return err
	}
	if err := f.both(r, false); err != nil {
		return err
	}
	opts, err := option.Opts(f.opts)
	if err != nil {
		return fmt.Errorf("--opt %w", err)
	}
	maps.Copy(r.opt.FrontendAttrs, opts)
	if r.opt.LocalMounts, err = option.Locals(f.locals); err != nil {
		return fmt.Errorf("--local %w", err)
	}
	r.opt.ProxyNetwork = f.proxyNetwork
	if f.frontend == "" {
		r.def, err = readDefinition(os.Stdin, f.noCache)
		return err
	}
	r.opt.Frontend = f.frontend
	if f.noCache {
		r.opt.FrontendAttrs["no-cache"] = ""
	}
	if id, ok := r.opt.FrontendAttrs[requestID]; ok {
		r.call = &call{request: id}
	}
	return nil
}

// readDefinition reads LLB.
func readDefinition(in io.Reader, noCache bool) (*llb.Definition, error) {
	def, err := llb.ReadFrom(in)
	if err != nil {
		return nil, fmt.Errorf("read LLB from standard input: %w", err)
	}
	if len(def.Def) == 0 {
		return nil, errNothing
	}
	if !noCache {
		return def, nil
	}
	for _, b := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(b); err != nil {
			return nil, fmt.Errorf("read LLB from standard input: %w", err)
		}
		d := digest.FromBytes(b)
		c := llb.Constraints{Metadata: def.Metadata[d]}
		llb.IgnoreCache(&c)
		if def.Metadata == nil {
			return nil, errors.New("read LLB from standard input: it has no metadata for --no-cache")
		}
		def.Metadata[d] = c.Metadata
	}
	return def, nil
}

// terminal tells whether nothing comes from f but what a person types.
func terminal(f *os.File) bool {
	fi, err := f.Stat()
	return err != nil || fi.Mode()&os.ModeCharDevice != 0
}
