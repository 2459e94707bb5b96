package build

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// isArchive tells a tar archive, plain or compressed, from a Dockerfile by its
// first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	if len(head) >= 262 && string(head[257:262]) == "ustar" {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next() // of the format before ustar
	return err == nil
}

const (
	// maxDockerfile bounds what --file fetches from a URL.
	maxDockerfile = 2 << 20
	fetchTime     = time.Minute
)

// dockerfileURL fetches the Dockerfile.
func (in inputs) dockerfileURL(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.file, nil)
	if err != nil {
		return fmt.Errorf("--file %q: %w", in.file, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("--file %q: the server says %s", in.file, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDockerfile+1))
	if err != nil {
		return fmt.Errorf("--file %q: %w", in.file, err)
	}
	if len(b) > maxDockerfile {
		return fmt.Errorf("--file %q: has more than %d bytes, which is no Dockerfile", in.file, maxDockerfile)
	}
	return in.dockerfileFrom(bytes.NewReader(b))
}
