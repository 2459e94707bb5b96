package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/digest"
	"github.com/buildd/buildd/cache/layer"
)

// Header is what another store has to know of a layer to take it in under the
// same ID.
type Header struct {
	ID cache.LayerID
	// Content is that of the layer's index; not set for a layer of an image.
	Content cache.Key
	// Image is set for a layer that came with an image, Parent then the layer
	// below it there.
	Image  *ImageLayer
	Parent cache.LayerID
}

// Header describes a layer, or returns cache.ErrNotFound.
func (s *Store) Header(id cache.LayerID) (Header, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.recordLocked(id)
	if err != nil {
		return Header{}, err
	}
	if r.Desc == nil {
		return Header{ID: id, Content: r.Content}, nil
	}
	return Header{ID: id, Parent: r.Parent, Image: &ImageLayer{DiffID: r.DiffID, Desc: *r.Desc}}, nil
}

// Export writes a layer that was made here, or imported, in the form that Import
// reads, but for the bytes of files that are in bases, too.
func (s *Store) Export(ctx context.Context, id cache.LayerID, w io.Writer, bases ...cache.LayerID) error {
	r, info, release, err := s.holdLayer(id)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer release()
	if info.Desc != nil {
		return fmt.Errorf("export layer %s: it came with an image: its blob is what can be had elsewhere", id)
	}
	dirs, err := s.dirs([]*layerRecord{r})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	l, err := s.layer(ctx, r, dirs[0])
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	known, release, err := s.bases(ctx, bases)
	if err != nil {
		return fmt.Errorf("export layer %s: %w", id, err)
	}
	defer release()
	if err := layer.Send(ctx, l, w, known...); err != nil {
		return fmt.Errorf("export layer %s: %w", id, err)
	}
	return nil
}

// bases returns layers with their files, which must be here until release is
// called.
func (s *Store) bases(ctx context.Context, ids []cache.LayerID) (out []digest.Layer, release func(), err error) {
	var holds []func()
	release = func() {
		for _, f := range holds {
			f()
		}
	}
	for _, id := range ids {
		r, _, hold, err := s.holdLayer(id)
		if err == nil {
			holds = append(holds, hold)
			var dirs []string
			if dirs, err = s.dirs([]*layerRecord{r}); err == nil {
				var l digest.Layer
				l, err = s.layer(ctx, r, dirs[0])
				out = append(out, l)
			}
		}
		if err != nil {
			release()
			return nil, nil, err
		}
	}
	return out, release, nil
}

// Import takes in a layer that another store has exported, if it is what h says,
// and returns the tree of it alone. bases are those that Export was called with. A
// layer that is here already is left as it is and r unread; that it has other
// content is an error.
func (s *Store) Import(ctx context.Context, h Header, r io.Reader, bases ...cache.LayerID) (cache.Tree, error) {
	t, err := s.importLayer(ctx, h, r, bases)
	if err != nil {
		return "", fmt.Errorf("import layer %.80q: %w", h.ID, err)
	}
	return t, nil
}

func (s *Store) importLayer(ctx context.Context, h Header, r io.Reader, bases []cache.LayerID) (_ cache.Tree, err error) {
	if h.Image != nil {
		return "", errors.New("it came with an image: AddLayer takes it in")
	}
	if !validDir(string(h.ID)) {
		return "", errors.New("want 32 hexadecimal digits as ID")
	}
	if t, err := s.Known(h); !errors.Is(err, cache.ErrNotFound) {
		return t, err
	}
	known, release, err := s.bases(ctx, bases)
	if err != nil {
		return "", err
	}
	defer release()
	d, err := s.newDraft(ctx, "")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, d.Discard()) }()
	x, err := layer.Receive(ctx, r, d.Dir, layer.ReceiveOptions{
		UserXattr: s.cfg.Rootless, IgnoreOwner: s.cfg.IgnoreOwner, Bases: known,
		Accept: func(x *digest.Index) error { return s.accept(h, x) },
	})
	if err != nil {
		return "", err
	}
	d.Root, _ = x.Lookup("") // it is described already
	if x, err = d.finish(ctx, x); err != nil {
		return "", err
	}
	t, used, err := s.enter(h, d.id, x)
	if !used {
		s.indexes.forget([]string{d.id})
		return t, errors.Join(err, s.remove(s.path(layersDir, d.id)))
	}
	return t, nil
}

// enter makes the record of an imported layer; used is false if somebody else
// was quicker.
func (s *Store) enter(h Header, dir string, x *digest.Index) (t cache.Tree, used bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.layers[h.ID]
	if ok {
		t, err := s.aloneLocked(h, r)
		return t, false, err
	}
	r = &layerRecord{id: h.ID, Content: h.Content, Dir: dir, Size: diskSize(x), Created: time.Now().UTC()}
	s.layers[r.id] = r
	s.dirtyLayers[r.id] = struct{}{}
	return s.overLocked(nil, r).freshLocked(), true, nil
}

// accept refuses a layer before anything of it is written.
func (s *Store) accept(h Header, x *digest.Index) error {
	if got := x.Content(); got != h.Content {
		return fmt.Errorf("it has content %s, announced was %s", got, h.Content)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.root.Fd()), &st); err != nil {
		return fmt.Errorf("find out free space: %w", err)
	}
	free := int64(st.Bavail) * st.Bsize
	if size := diskSize(x); size > free {
		return fmt.Errorf("it takes %d bytes, %d are free: %w", size, free, unix.ENOSPC)
	}
	return nil
}

// Known returns the tree of a layer alone, or cache.ErrNotFound if the store does
// not have the layer. That it has another one of that ID is an error.
func (s *Store) Known(h Header) (cache.Tree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.recordLocked(h.ID)
	if err != nil {
		return "", err
	}
	return s.aloneLocked(h, r)
}

func (s *Store) aloneLocked(h Header, r *layerRecord) (cache.Tree, error) {
	if h.Image == nil && (r.Desc != nil || r.Content != h.Content) {
		return "", fmt.Errorf("there is another layer of that ID, with content %s", r.Content)
	}
	return s.overLocked(nil, r).freshLocked(), nil
}

// AddLayer makes a layer of an image known, as AddImage does, without the others
// of the image; the one below it must be known. It returns the tree of it alone.
func (s *Store) AddLayer(h Header) (cache.Tree, error) {
	if err := checkHeader(h); err != nil {
		return "", fmt.Errorf("add layer %.80q: %w", h.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Parent != "" {
		if _, err := s.recordLocked(h.Parent); err != nil {
			return "", fmt.Errorf("add layer %s: the one below it: %w", h.ID, err)
		}
	}
	if isRemote(h.ID) {
		return s.aloneLocked(h, s.remoteRecordLocked(h.ID, h.Parent, *h.Image))
	}
	if isRemote(h.ID) {
		return s.aloneLocked(h, s.remoteRecordLocked(h.ID, h.Parent, *h.Image))
	}
	return s.aloneLocked(h, s.imageLayerLocked(h.ID, h.Parent, *h.Image))
}

func checkHeader(h Header) error {
	if h.Image == nil {
		return errors.New("it did not come with an image: Import takes it in")
	}
	if err := checkImageLayer(*h.Image); err != nil {
		return err
	}
	if _, err := layer.TypeOf(h.Image.Desc.MediaType); err != nil {
		return err
	}
	want := imageLayerID(h.Parent, h.Image.DiffID)
	if isRemote(h.ID) {
		want = remoteID(h.Parent, *h.Image)
	}
	if want != h.ID {
		return fmt.Errorf("over layer %q its ID is %s", h.Parent, want)
	}
	return nil
}
