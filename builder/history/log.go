package history

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/buildd/buildd/solver/progress"
	"github.com/containerd/containerd/v2/core/content"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxEvent bounds one event of a log that is read back.
const maxEvent = 64 << 20

// encodeLog writes a build's whole progress as BuildKit does: events, each behind
// its length as four bytes, little endian.
func encodeLog(ctx context.Context, log *progress.Log) ([]byte, error) {
	var buf bytes.Buffer
	err := log.Follow(ctx, func(e *control.StatusResponse) error {
		b, err := e.MarshalVT()
		if err != nil {
			return err
		}
		buf.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b))))
		buf.Write(b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("save log: %w", err)
	}
	return buf.Bytes(), nil
}

// Replay sends the progress of a build that is over; known is false if there is
// no record of it.
func (s *Store) Replay(ctx context.Context, ref string, send func(*control.StatusResponse) error) (known bool, err error) {
	rec, err := s.get(ref)
	if errors.Is(err, ErrNotFound) || (err == nil && rec.Logs == nil) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.replay(ctx, rec, send)
}

func (s *Store) replay(ctx context.Context, rec *control.BuildHistoryRecord, send func(*control.StatusResponse) error) error {
	ref := rec.Ref
	ra, err := s.Contents().ReaderAt(ctx, ocispecs.Descriptor{Digest: digest.Digest(rec.Logs.Digest), Size: rec.Logs.Size})
	if err != nil {
		return fmt.Errorf("open log of build %s: %w", ref, err)
	}
	defer ra.Close()
	r := bufio.NewReader(content.NewReader(ra))
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read log of build %s: %w", ref, err)
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > maxEvent {
			return fmt.Errorf("read log of build %s: an event of %d bytes is too large", ref, n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read log of build %s: %w", ref, err)
		}
		e := &control.StatusResponse{}
		if err := e.UnmarshalVT(b); err != nil {
			return fmt.Errorf("read log of build %s: %w", ref, err)
		}
		if err := send(e); err != nil {
			return err
		}
	}
}
