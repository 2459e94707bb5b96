package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/buildd/buildd/cmd/buildctl/archive"
	"github.com/buildd/buildd/cmd/buildctl/layout"
	"github.com/buildd/buildd/cmd/buildctl/option"
)

// inputs finds the files of a build: its context, its Dockerfile and further
// contexts.
type inputs struct {
	*request
	file  string // of --file
	where string // the context
	stdin *os.File
}

const dockerfileName = "Dockerfile"

// main finds the context and the Dockerfile.
func (in inputs) main(ctx context.Context) error {
	fi, err := os.Stat(in.where)
	switch {
	case in.where == "-":
		return in.fromStdin()
	case err == nil && fi.IsDir():
		return in.directory(ctx)
	case remote(in.where):
		return in.remote(ctx)
	case err == nil:
		return fmt.Errorf("context %q is a file: want a directory, or - with the file on standard input", in.where)
	default:
		return fmt.Errorf("context %q: %w: want a directory, - or a URL", in.where, err)
	}
}

func (in inputs) directory(ctx context.Context) error {
	if err := in.local("context", in.where); err != nil {
		return fmt.Errorf("context: %w", err)
	}
	abs, err := filepath.Abs(in.where)
	if err != nil {
		return fmt.Errorf("context %q: %w", in.where, err)
	}
	// Under this name the daemon finds what it has of the context from before.
	host, _ := os.Hostname()
	in.opt.SharedKey = host + ":" + abs
	switch {
	case in.file == "-":
		return in.dockerfileFrom(in.stdin)
	case isURL(in.file):
		return in.dockerfileURL(ctx)
	case in.file != "":
		return in.dockerfile(in.file, fmt.Sprintf("--file %q", in.file))
	default:
		return in.dockerfile(filepath.Join(in.where, dockerfileName), "name the Dockerfile with --file if it lies elsewhere")
	}
}

// dockerfile shares the directory of a Dockerfile, of which the daemon takes no
// other files than that and its list of ignored ones.
func (in inputs) dockerfile(path, hint string) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	if _, err := os.Stat(path); err != nil {
		lower := filepath.Join(dir, strings.ToLower(base))
		if _, err2 := os.Stat(lower); base != dockerfileName || err2 != nil {
			if _, err3 := os.Stat(filepath.Join(in.where, path)); err3 == nil && in.file != "" {
				hint += fmt.Sprintf(" counts from the current directory: want %s", filepath.Join(in.where, path))
			}
			return fmt.Errorf("no Dockerfile: %w: %s", err, hint)
		}
		base = strings.ToLower(base)
	}
	in.opt.FrontendAttrs["filename"] = base
	return in.local("dockerfile", dir)
}

// dockerfileFrom makes what r holds the Dockerfile.
func (in inputs) dockerfileFrom(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read Dockerfile from standard input: %w", err)
	}
	if len(b) == 0 {
		return errors.New("the Dockerfile on standard input is empty")
	}
	in.opt.LocalMounts["dockerfile"] = memoryFS{dockerfileName: b}
	in.opt.FrontendAttrs["filename"] = dockerfileName
	in.opt.FrontendAttrs["dockerfilekey"] = "dockerfile"
	return nil
}

// fromStdin takes a context, or a Dockerfile without one, from standard input.
func (in inputs) fromStdin() error {
	if in.file == "-" {
		return errors.New("context and --file are both -: standard input can be one of them")
	}
	if terminal(in.stdin) {
		return errors.New("context -: standard input is a terminal: want a tar archive or a Dockerfile from a file or a pipe")
	}
	r := bufio.NewReaderSize(in.stdin, archive.Header)
	is, err := archive.Is(r)
	if err != nil {
		return fmt.Errorf("read context from standard input: %w", err)
	}
	if !is {
		if in.file != "" {
			return fmt.Errorf("--file %q: standard input holds a Dockerfile already, not an archive: leave --file out, or name a directory as context", in.file)
		}
		in.opt.LocalMounts["context"] = memoryFS{}
		return in.dockerfileFrom(r)
	}
	up := uploadprovider.New()
	in.opt.FrontendAttrs["context"] = up.Add(io.NopCloser(r))
	in.opt.Session = append(in.opt.Session, up)
	in.opt.FrontendAttrs["filename"] = dockerfileName
	if in.file != "" {
		in.opt.FrontendAttrs["filename"] = in.file
	}
	return nil
}

// remote leaves it to the daemon to fetch the context.
func (in inputs) remote(ctx context.Context) error {
	in.opt.FrontendAttrs["context"] = in.where
	switch {
	case in.file == "-":
		return in.dockerfileFrom(in.stdin)
	case isURL(in.file):
		return in.dockerfileURL(ctx)
	case filepath.IsAbs(in.file): // not one of the context's
		in.opt.FrontendAttrs["dockerfilekey"] = "dockerfile"
		return in.dockerfile(in.file, "--file "+in.file)
	case in.file != "":
		in.opt.FrontendAttrs["filename"] = in.file
	}
	return nil
}

func (in inputs) local(name, dir string) error {
	f, err := fsutil.NewFS(dir)
	if err != nil {
		return fmt.Errorf("directory %q: %w", dir, err)
	}
	in.opt.LocalMounts[name] = f
	return nil
}

// named reads the values of --build-context.
func (in inputs) named(values []string) error {
	contexts, err := option.Pairs(values)
	if err != nil {
		return err
	}
	for name, src := range contexts {
		if err := in.namedOne(name, src); err != nil {
			return fmt.Errorf("%q: %w", name+"="+src, err)
		}
	}
	if len(contexts) > 0 {
		in.opt.FrontendAttrs["frontend.caps"] = "moby.buildkit.frontend.contexts+forward"
	}
	return nil
}

func (in inputs) namedOne(name, src string) error {
	key := "context:" + name
	if dir, ok := strings.CutPrefix(src, "oci-layout://"); ok {
		ref, err := in.layout(name, dir)
		in.opt.FrontendAttrs[key] = ref
		return err
	}
	if strings.HasPrefix(src, "docker-image://") {
		in.opt.FrontendAttrs[key] = src
		return nil
	}
	fi, err := os.Stat(src)
	if err != nil && remote(src) {
		in.opt.FrontendAttrs[key] = src
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: want a directory, docker-image://NAME, oci-layout://DIR[:TAG] or a URL", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is a file: want a directory", src)
	}
	mount := name
	if name == "context" || name == "dockerfile" { // the main ones have these names
		mount = "_" + name
	}
	in.opt.FrontendAttrs[key] = "local:" + mount
	return in.local(mount, src)
}

// layout shares an OCI layout, DIR[:TAG][@DIGEST], and returns what the frontend
// is to call it.
func (in inputs) layout(name, s string) (string, error) {
	s, dig, hasDigest := strings.Cut(s, "@")
	dir, tag := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.Contains(s[i:], "/") {
		dir, tag = s[:i], s[i+1:]
	}
	store, err := layout.Open(dir)
	if err != nil {
		return "", err
	}
	if !hasDigest {
		if dig, err = layoutDigest(dir, tag); err != nil {
			return "", err
		}
	} else if _, err := digest.Parse(dig); err != nil {
		return "", fmt.Errorf("digest %q: %w", dig, err)
	}
	if tag == "" {
		tag = "latest"
	}
	if in.opt.OCIStores == nil {
		in.opt.OCIStores = map[string]content.Store{}
	}
	id := "context-" + strings.Map(storeID, name)
	in.opt.OCIStores[id] = store
	return "oci-layout://" + id + ":" + tag + "@" + dig, nil
}

// storeID keeps what may stand in the name of an image.
func storeID(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
		return r
	}
	return 'x'
}

// layoutDigest looks a tag up in a layout's index; without one, "latest" or what
// is there alone.
func layoutDigest(dir, tag string) (string, error) {
	idx := ociindex.NewStoreIndex(dir)
	want := tag
	if want == "" {
		want = "latest"
	}
	desc, err := idx.Get(want)
	if err == nil && desc == nil && tag == "" {
		desc, err = idx.GetSingle()
	}
	if err != nil {
		return "", fmt.Errorf("read index of OCI layout: %w", err)
	}
	if desc == nil {
		return "", fmt.Errorf("the OCI layout %s has no tag %q: want oci-layout://DIR:TAG or oci-layout://DIR@DIGEST", dir, want)
	}
	return desc.Digest.String(), nil
}

var scp = regexp.MustCompile(`^[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:.+`)

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// remote tells whether a context is the daemon's to fetch.
func remote(s string) bool {
	for _, p := range []string{"http://", "https://", "git://", "ssh://", "github.com/"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return scp.MatchString(s)
}
