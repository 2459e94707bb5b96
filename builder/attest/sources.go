package attest

import (
	"cmp"
	"slices"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image that a build read or looked up.
type Image struct {
	Ref      string             // NAME[:TAG][@DIGEST]
	Platform *ocispecs.Platform // nil if none was asked for
	Digest   digest.Digest      // of the manifest or index
	Layout   bool               // it came from an OCI layout of the client
}

// Blob is a blob of a registry or of an OCI layout that was read as a file.
type Blob struct {
	Ref    string // NAME@DIGEST
	Digest digest.Digest
	Layout bool
}

// Git is a repository. URL has the ref as its fragment.
type Git struct {
	URL, Commit string
	// Bundle is the locator of the blob that the commit was read from, "" for the
	// repository itself.
	Bundle string
}

// Download is a file that was read from a web server.
type Download struct {
	URL    string
	Digest digest.Digest
}

// sources are all that a graph was made of, each once.
type sources struct {
	images []Image
	blobs  []Blob
	git    []Git
	http   []Download
	locals []string // names of the client's directories
}

func (s *sources) addImage(i Image) {
	same := func(o Image) bool {
		return o.Ref == i.Ref && o.Layout == i.Layout && samePlatform(o.Platform, i.Platform)
	}
	if !slices.ContainsFunc(s.images, same) {
		s.images = append(s.images, i)
	}
}

// samePlatform leaves out features: no index tells images apart by them alone.
func samePlatform(a, b *ocispecs.Platform) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant && a.OSVersion == b.OSVersion
}

func (s *sources) addBlob(b Blob) {
	if !slices.Contains(s.blobs, b) {
		s.blobs = append(s.blobs, b)
	}
}

func (s *sources) addGit(g Git) {
	g.URL = redact(g.URL)
	same := func(o Git) bool { return o.URL == g.URL && o.Bundle == g.Bundle }
	if !slices.ContainsFunc(s.git, same) {
		s.git = append(s.git, g)
	}
}

func (s *sources) addHTTP(h Download) {
	h.URL = redact(h.URL)
	if !slices.ContainsFunc(s.http, func(o Download) bool { return o.URL == h.URL }) {
		s.http = append(s.http, h)
	}
}

func (s *sources) addLocal(name string) {
	if !slices.Contains(s.locals, name) {
		s.locals = append(s.locals, name)
	}
}

func (s *sources) merge(o sources) {
	for _, i := range o.images {
		s.addImage(i)
	}
	for _, b := range o.blobs {
		s.addBlob(b)
	}
	for _, g := range o.git {
		s.addGit(g)
	}
	for _, h := range o.http {
		s.addHTTP(h)
	}
	for _, l := range o.locals {
		s.addLocal(l)
	}
}

func (s *sources) sort() {
	slices.SortStableFunc(s.images, func(a, b Image) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortStableFunc(s.blobs, func(a, b Blob) int { return cmp.Compare(a.Ref, b.Ref) })
	slices.SortStableFunc(s.git, func(a, b Git) int { return cmp.Compare(a.URL, b.URL) })
	slices.SortStableFunc(s.http, func(a, b Download) int { return cmp.Compare(a.URL, b.URL) })
	slices.Sort(s.locals)
}

// dropPinned removes images named by digest that are there by their tag too: a
// frontend looks up a tag and then builds on the digest that it got.
func (s *sources) dropPinned() {
	tags := map[string]bool{}
	for _, i := range s.images {
		if name, pinned := nameTag(i.Ref); !pinned {
			tags[name] = true
		}
	}
	s.images = slices.DeleteFunc(s.images, func(i Image) bool {
		name, pinned := nameTag(i.Ref)
		return pinned && tags[name]
	})
}

// nameTag returns NAME:TAG of a reference and whether it has a digest. What is no
// reference is its own name.
func nameTag(s string) (name string, pinned bool) {
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return s, false
	}
	_, pinned = ref.(reference.Digested)
	tag := "latest"
	if t, ok := ref.(reference.Tagged); ok {
		tag = t.Tag()
	}
	return ref.Name() + ":" + tag, pinned
}

// ofPlatform leaves out, of the images that were looked up for each of several
// platforms, those for the others than id.
func ofPlatform(images []Image, all []Platform, id string) []Image {
	everywhere := map[string]bool{}
	for _, i := range images {
		everywhere[i.Ref] = !slices.ContainsFunc(all, func(p Platform) bool {
			m := platforms.NewMatcher(p.Platform)
			return !slices.ContainsFunc(images, func(o Image) bool {
				return o.Ref == i.Ref && o.Platform != nil && m.Match(*o.Platform)
			})
		})
	}
	var own ocispecs.Platform
	for _, p := range all {
		if p.ID == id {
			own = p.Platform
		}
	}
	var out []Image
	for _, i := range images {
		if !everywhere[i.Ref] || i.Platform == nil || (i.Platform.OS == own.OS && i.Platform.Architecture == own.Architecture) {
			out = append(out, i)
		}
	}
	return out
}

// Platform is one of those that a result is for, under the name that the
// frontend gave it.
type Platform struct {
	ID string
	ocispecs.Platform
}
