package export

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/layer"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// imageStore writes an image into the blob store, names it in the image store
// and pushes it.
type imageStore struct {
	w        *writer
	images   Images
	resolver func(c session.Client, insecure bool) remotes.Resolver
	o        imageOptions
	meta     attrs

	push, byDigest, insecure bool
	// store is nil if nobody said: then an image is named here unless it is
	// pushed, because what a registry has may become newer than what is here, and
	// a later FROM would not notice.
	store *bool
	// incomplete leaves blobs where they are that nobody needed yet.
	incomplete        bool
	canonical         bool
	danglingPrefix    string
	danglingEmptyOnly bool
}

func newImage(w *writer, images Images, resolver func(session.Client, bool) remotes.Resolver, m map[string]string) (Exporter, error) {
	a := newAttrs(m)
	o, err := parseImageOptions(a, true)
	if err != nil {
		return nil, err
	}
	e := &imageStore{w: w, images: images, resolver: resolver, o: o, meta: a}
	var unpack bool // accepted: layers are unpacked when a step needs their files
	if err := a.flags(map[string]*bool{
		string(exptypes.OptKeyPush):              &e.push,
		string(exptypes.OptKeyPushByDigest):      &e.byDigest,
		string(exptypes.OptKeyInsecure):          &e.insecure,
		string(exptypes.OptKeyUnpack):            &unpack,
		string(exptypes.OptKeyNameCanonical):     &e.canonical,
		string(exptypes.OptKeyDanglingEmptyOnly): &e.danglingEmptyOnly,
		"unsafe-internal-store-allow-incomplete": &e.incomplete,
	}); err != nil {
		return nil, err
	}
	if e.store, err = a.optional(string(exptypes.OptKeyStore)); err != nil {
		return nil, err
	}
	e.danglingPrefix, _ = a.take(string(exptypes.OptKeyDanglingPrefix))
	return e, e.validate()
}

func (e *imageStore) validate() error {
	if !e.push {
		return nil
	}
	if e.o.name == "" {
		return errors.New("push=true needs name=REFERENCE to push to")
	}
	if e.resolver == nil {
		return errors.New("push=true: this daemon has no access to registries")
	}
	names, err := splitNames(e.o.name)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := pushTarget(name, e.byDigest); err != nil {
			return err
		}
	}
	return nil
}

func (e *imageStore) Type() string                    { return TypeImage }
func (e *imageStore) Name() string                    { return "exporting to image" }
func (e *imageStore) Compression() *layer.Compression { return &e.o.compression }

func (e *imageStore) Export(ctx context.Context, in Input, r Request) (*Result, error) {
	in, err := in.with(e.meta)
	if err != nil {
		return nil, err
	}
	list := e.o.names(in)
	names, err := splitNames(list)
	if err != nil {
		return nil, err
	}
	early := e.streams(ctx, names, r)
	defer early.during(ctx)()
	res, err := e.export(ctx, in, names, list, early, r)
	if err != nil {
		early.stop(err)
		return nil, err
	}
	return res, nil
}

// streams prepares to push layers while they are made; nil if they are not
// pushed. Only the first name has them: others are mostly tags of the same
// repository, where the push finds the layers.
func (e *imageStore) streams(ctx context.Context, names []string, r Request) *streams {
	if !e.push || len(names) == 0 {
		return nil
	}
	ref, err := pushTarget(names[0], e.byDigest)
	if err != nil {
		return nil // the push says so
	}
	return newStreams(ctx, e.resolver(r.Client, e.insecure), ref.String(), r)
}

func (e *imageStore) export(ctx context.Context, in Input, names []string, list string, early *streams, r Request) (*Result, error) {
	if early != nil {
		r.follow = early.follow
	}
	img, err := e.w.write(ctx, in, e.o, r)
	if err != nil {
		return nil, err
	}
	defer img.hold()()
	res, err := img.result(img.desc)
	if err != nil {
		return nil, err
	}
	stored, canonical := names, e.canonical
	if e.danglingPrefix != "" && (len(names) == 0 || !e.danglingEmptyOnly) {
		dangling := e.danglingPrefix + "@" + img.desc.Digest.String()
		canonical = canonical && len(names) > 0
		list = strings.TrimPrefix(list+","+dangling, ",")
		stored = append(stored[:len(stored):len(stored)], dangling)
	}
	if list != "" {
		res.Response[exptypes.ExporterImageNameKey] = list
	}
	if err := e.name(ctx, img, stored, canonical, r); err != nil {
		return nil, err
	}
	if e.push && len(names) > 0 {
		res.Finalize = func(ctx context.Context) error { return e.pushAll(ctx, img, names, early, r) }
		res.Discard = func() { early.stop(errDiscarded) }
	}
	return res, nil
}

// name enters the image into the image store.
func (e *imageStore) name(ctx context.Context, img *madeImage, names []string, canonical bool, r Request) error {
	if e.images == nil {
		return nil
	}
	complete := e.incomplete
	for _, name := range names {
		keep, err := e.keeps(ctx, name)
		if err != nil {
			return err
		}
		if !keep {
			continue
		}
		// A name in the image store is a promise that the image can be used
		// without a registry.
		if !complete {
			if err := img.fetchAll(ctx); err != nil {
				return err
			}
			complete = true
		}
		err = r.step("naming to "+name, func() error {
			if err := e.images.Put(ctx, name, img.desc); err != nil || !canonical || strings.ContainsRune(name, '@') {
				return err
			}
			return e.images.Put(ctx, name+"@"+img.desc.Digest.String(), img.desc)
		})
		if err != nil {
			return fmt.Errorf("name image %s: %w", name, err)
		}
	}
	return nil
}

// keeps tells whether name is entered into the image store. An image that is
// only pushed is not, but replaces the one that has its name already: that would
// hide the pushed one from every later FROM.
func (e *imageStore) keeps(ctx context.Context, name string) (bool, error) {
	switch {
	case e.store != nil:
		return *e.store, nil
	case !e.push:
		return true, nil
	case e.byDigest:
		return false, nil
	}
	_, err := e.images.Get(ctx, name)
	if errors.Is(err, cache.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// pushTarget is what a registry is asked to take the image as: NAME:TAG, or NAME
// alone to push by digest.
func pushTarget(name string, byDigest bool) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", name, err)
	}
	if !byDigest {
		return reference.TagNameOnly(ref), nil
	}
	if !reference.IsNameOnly(ref) {
		return nil, fmt.Errorf("can't push tagged ref %s by digest: leave out its tag", ref)
	}
	return ref, nil
}
