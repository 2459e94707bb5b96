package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry is Debian's docker-registry on loopback, which every engine pulls
// from and pushes to.
type registry struct {
	addr string
	cmd  *exec.Cmd
}

func startRegistry(ctx context.Context, dir string) (*registry, error) {
	r := &registry{addr: "127.0.0.1:5000"} // the network namespace is ours
	config := filepath.Join(dir, "registry.yaml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n",
		filepath.Join(dir, "registry"), r.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd = exec.Command("docker-registry", "serve", config)
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start registry: %w", err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			c.Close()
			return r, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			r.close()
			return nil, fmt.Errorf("wait for registry: %w", err)
		}
	}
}

func (r *registry) close() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// ref is the full name of an image here.
func (r *registry) ref(name string) string { return r.addr + "/" + name }

// push puts an image of these layers under name:latest.
func (r *registry) push(ctx context.Context, name string, layers []layer) error {
	config := ocispecs.Image{
		Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"},
		Config:   ocispecs.ImageConfig{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cmd: []string{"sh"}},
		RootFS:   ocispecs.RootFS{Type: "layers"},
	}
	m := ocispecs.Manifest{MediaType: ocispecs.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, l := range layers {
		if err := r.pushFile(ctx, name, l); err != nil {
			return err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, ocispecs.History{CreatedBy: "bench"})
		m.Layers = append(m.Layers, l.desc)
	}
	b, err := json.Marshal(config)
	if err != nil {
		return err
	}
	m.Config = ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := r.upload(ctx, name, m.Config, bytes.NewReader(b)); err != nil {
		return err
	}
	if b, err = json.Marshal(m); err != nil {
		return err
	}
	_, err = r.call(ctx, http.MethodPut, "http://"+r.addr+"/v2/"+name+"/manifests/latest", m.MediaType, bytes.NewReader(b), int64(len(b)))
	return err
}

func (r *registry) pushFile(ctx context.Context, name string, l layer) error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.upload(ctx, name, l.desc, f)
}

func (r *registry) upload(ctx context.Context, name string, d ocispecs.Descriptor, body io.Reader) error {
	h, err := r.call(ctx, http.MethodPost, "http://"+r.addr+"/v2/"+name+"/blobs/uploads/", "", nil, 0)
	if err != nil {
		return err
	}
	to, err := url.Parse(h.Get("Location"))
	if err != nil {
		return err
	}
	q := to.Query()
	q.Set("digest", d.Digest.String())
	to.RawQuery = q.Encode()
	_, err = r.call(ctx, http.MethodPut, to.String(), "application/octet-stream", body, d.Size)
	return err
}

// manifest returns the manifest of an image that an engine pushed; an error if
// it, or a blob of it, is not there.
func (r *registry) manifest(ctx context.Context, name string) (ocispecs.Manifest, error) {
	var m ocispecs.Manifest
	base := "http://" + r.addr + "/v2/" + name
	b, err := r.get(ctx, base+"/manifests/latest")
	if err != nil {
		return m, err
	}
	var index ocispecs.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return m, err
	}
	if len(index.Manifests) > 0 {
		if b, err = r.get(ctx, base+"/manifests/"+index.Manifests[0].Digest.String()); err != nil {
			return m, err
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	for _, d := range append([]ocispecs.Descriptor{m.Config}, m.Layers...) {
		if _, err := r.call(ctx, http.MethodHead, base+"/blobs/"+d.Digest.String(), "", nil, 0); err != nil {
			return m, err
		}
	}
	return m, nil
}

// read gets all layers of an image.
func (r *registry) read(ctx context.Context, name string) error {
	m, err := r.manifest(ctx, name)
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		if _, err := r.get(ctx, "http://"+r.addr+"/v2/"+name+"/blobs/"+l.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

func (r *registry) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for _, t := range []string{
		ocispecs.MediaTypeImageIndex, ocispecs.MediaTypeImageManifest,
		"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
	} {
		req.Header.Add("Accept", t)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func (r *registry) call(ctx context.Context, method, url, kind string, body io.Reader, size int64) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return resp.Header, nil
}
