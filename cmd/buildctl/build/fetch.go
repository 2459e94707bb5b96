package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

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
