package lower

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/ulikunitz/xz"
)

// SourceTime is how Contexts.SourceTime is done with a gateway: the committer's time of a git source, Last-Modified of an HTTP
// source, or the newest file of the archive that it is.
func SourceTime(ctx context.Context, c gwclient.Client, st llb.State, what string) (*time.Time, error) {
	op, err := onlySource(ctx, st, llb.WithCaps(c.BuildOpts().LLBCaps))
	if err != nil || op == nil {
		return nil, err
	}
	isGit := strings.HasPrefix(op.Identifier, "git://")
	if !isGit && !isDownload(op.Identifier) {
		return nil, nil
	}
	opt := sourceresolver.Opt{LogName: what}
	if isGit {
		opt.GitOpt = &sourceresolver.ResolveGitOpt{ReturnObject: true}
	}
	meta, err := c.ResolveSourceMetadata(ctx, op, opt)
	if err != nil {
		return nil, err
	}
	switch {
	case meta.Git != nil && len(meta.Git.CommitObject) > 0:
		return commitTime(meta.Git.CommitObject)
	case meta.HTTP != nil && meta.HTTP.LastModified != nil:
		return meta.HTTP.LastModified, nil
	case isGit:
		return nil, nil
	}
	return downloadTime(ctx, c, op)
}

func isDownload(id string) bool {
	return strings.HasPrefix(id, "http://") || strings.HasPrefix(id, "https://")
}

// onlySource returns the one source op in a state, nil if there is none or more than one.
func onlySource(ctx context.Context, st llb.State, opts ...llb.ConstraintsOpt) (*pb.SourceOp, error) {
	def, err := st.Marshal(ctx, opts...)
	if err != nil {
		return nil, err
	}
	var found *pb.SourceOp
	for _, raw := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, err
		}
		if s := op.GetSource(); s != nil {
			if found != nil {
				return nil, nil
			}
			found = s
		}
	}
	return found, nil
}

// commitTime reads the committer's time of a raw commit: "committer Name <mail> SECONDS ZONE".
func commitTime(commit []byte) (*time.Time, error) {
	header, _, _ := bytes.Cut(commit, []byte("\n\n"))
	for line := range bytes.SplitSeq(header, []byte("\n")) {
		who, ok := bytes.CutPrefix(line, []byte("committer "))
		if !ok {
			continue
		}
		words := bytes.Fields(who[bytes.LastIndexByte(who, '>')+1:])
		if len(words) == 0 {
			break
		}
		n, err := strconv.ParseInt(string(words[0]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("commit time %q: %w", words[0], err)
		}
		t := time.Unix(n, 0).UTC()
		return &t, nil
	}
	return nil, errors.New("commit without a committer's time")
}

// downloadTime returns the time of the newest file in a download, nil if it is no archive.
func downloadTime(ctx context.Context, c gwclient.Client, op *pb.SourceOp) (*time.Time, error) {
	name := op.Attrs[pb.AttrHTTPFilename]
	if name == "" {
		return nil, nil
	}
	st := llb.NewState(llb.NewSource(op.Identifier, maps.Clone(op.Attrs), llb.Constraints{}).Output())
	def, err := st.Marshal(ctx, llb.WithCaps(c.BuildOpts().LLBCaps))
	if err != nil {
		return nil, err
	}
	res, err := c.Solve(ctx, gwclient.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		return nil, err
	}
	ref, err := res.SingleRef()
	if err != nil {
		return nil, err
	}
	return newestFile(&refReader{ctx: ctx, ref: ref, name: name})
}

// newestFile returns the latest time of a regular file in a tar archive, compressed or not, and nil if r is no such thing.
func newestFile(r io.Reader) (*time.Time, error) {
	plain, err := decompress(bufio.NewReader(r))
	if err != nil {
		return nil, notArchive(err)
	}
	var newest *time.Time
	for tr := tar.NewReader(plain); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return newest, nil
		}
		if err != nil {
			return nil, notArchive(err)
		}
		if t := h.ModTime.UTC(); h.Typeflag == tar.TypeReg && (newest == nil || t.After(*newest)) {
			newest = &t
		}
	}
}

// notArchive keeps only errors of reading: what the bytes are is nobody's mistake.
func notArchive(err error) error {
	var e *readError
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// decompress undoes the compressions that ADD knows, told by the first bytes.
func decompress(r *bufio.Reader) (io.Reader, error) {
	magic, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(r)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz.NewReader(r)
	default:
		return r, nil
	}
}

// refReader reads a file of a reference piece by piece, so that a big one never lies in memory.
type refReader struct {
	ctx    context.Context //nolint:containedctx // lives for one call
	ref    gwclient.Reference
	name   string
	offset int
	rest   []byte
	done   bool
}

// readError is an error of the reference, as opposed to one about what it holds.
type readError struct{ error }

func (e *readError) Unwrap() error { return e.error }

func (r *refReader) Read(p []byte) (int, error) {
	const piece = 1 << 20
	if len(r.rest) == 0 && !r.done {
		b, err := r.ref.ReadFile(r.ctx, gwclient.ReadRequest{Filename: r.name, Range: &gwclient.FileRange{Offset: r.offset, Length: piece}})
		if err != nil {
			return 0, &readError{err}
		}
		r.rest, r.offset, r.done = b, r.offset+len(b), len(b) < piece
	}
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
