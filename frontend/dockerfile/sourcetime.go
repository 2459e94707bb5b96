package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/solver/pb"
)

// SourceTime implements lower.Contexts: the committer's time of a git source; Last-Modified of an HTTP source, or the time of
// the newest file in the archive that it is. Other sources, and states of several, have no time.
func (c *contexts) SourceTime(ctx context.Context, st llb.State, what string) (*time.Time, error) {
	op, err := c.onlySource(ctx, st)
	if op == nil || err != nil {
		return nil, err
	}
	o := sourceresolver.Opt{LogName: what}
	if strings.HasPrefix(op.Identifier, "git://") {
		o.GitOpt = &sourceresolver.ResolveGitOpt{ReturnObject: true}
	}
	meta, err := c.sources.ResolveSourceMetadata(ctx, op, o)
	if err != nil {
		return nil, err
	}
	if meta.Git != nil && len(meta.Git.CommitObject) > 0 {
		t, err := committerTime(meta.Git.CommitObject)
		if err != nil {
			return nil, fmt.Errorf("read commit of %s: %w", op.Identifier, err)
		}
		return t, nil
	}
	if meta.HTTP != nil && meta.HTTP.LastModified != nil {
		return meta.HTTP.LastModified, nil
	}
	if name := op.Attrs[pb.AttrHTTPFilename]; isHTTP(op.Identifier) && name != "" {
		return c.archiveTime(ctx, op, name)
	}
	return nil, nil
}

// onlySource returns the source that st is made of, nil if there are several or none.
func (c *contexts) onlySource(ctx context.Context, st llb.State) (*pb.SourceOp, error) {
	def, err := c.marshal(ctx, st)
	if err != nil {
		return nil, err
	}
	var found *pb.SourceOp
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, err
		}
		src := op.GetSource()
		if src == nil {
			continue
		}
		if found != nil {
			return nil, nil
		}
		found = src
	}
	return found, nil
}

func (c *contexts) archiveTime(ctx context.Context, op *pb.SourceOp, name string) (*time.Time, error) {
	src := llb.NewSource(op.Identifier, op.Attrs, llb.Constraints{})
	ref, err := c.files(ctx, llb.NewState(src.Output()))
	if err != nil || ref == nil {
		return nil, err
	}
	// What looks like an archive and is broken has no time either: whoever unpacks it will say so.
	failing := &readError{r: &refReader{ctx: ctx, ref: ref, name: name}}
	t, err := newestFile(failing)
	if failing.err != nil {
		return nil, fmt.Errorf("read %s: %w", op.Identifier, failing.err)
	}
	if err != nil {
		return nil, nil
	}
	return t, nil
}

var errNoCommitter = errors.New("no committer with a time")

// committerTime reads the header "committer NAME <MAIL> SECONDS ZONE" of a commit (git-cat-file(1)).
func committerTime(commit []byte) (*time.Time, error) {
	for line := range bytes.Lines(commit) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			break // the message begins
		}
		actor, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			continue
		}
		// A name may hold < and >, the last > ends the mail address.
		fields := strings.Fields(string(actor[bytes.LastIndexByte(actor, '>')+1:]))
		if len(fields) != 2 {
			return nil, errNoCommitter
		}
		sec, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("time of committer: %w", err)
		}
		t := time.Unix(sec, 0).UTC()
		return &t, nil
	}
	return nil, errNoCommitter
}
