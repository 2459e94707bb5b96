package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	gofs "io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/buildd/buildd/cache/digest"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"

	godigest "github.com/opencontainers/go-digest"
)

// rootfs reads the files of an outcome for the exporters of files.
type rootfs struct{ trees Trees }

// fileOptions are the attributes that exporters of files share.
type fileOptions struct {
	epoch epoch
	// prefix goes before the names of attestations.
	prefix string
	// split says whether every platform gets a directory; nil: if there can be
	// several.
	split *bool
	// src is the directory to export, "" for the root.
	src string
	// mirror removes from the client's directory what is not exported.
	mirror bool
}

func parseFileOptions(m map[string]string) (fileOptions, error) {
	a := newAttrs(m)
	var o fileOptions
	var err error
	if o.epoch, err = a.epoch(); err != nil {
		return o, err
	}
	if o.split, err = a.optional("platform-split"); err != nil {
		return o, err
	}
	o.prefix, _ = a.take("attestation-prefix")
	if strings.ContainsRune(o.prefix, '/') {
		return o, fmt.Errorf("attestation-prefix %q: want the beginning of a file name, without a slash", o.prefix)
	}
	var ok bool
	if o.src, ok = a.take("src"); ok && o.src == "" {
		return o, errors.New("empty value for src; omit it to export the entire filesystem")
	}
	mode, _ := a.take("mode")
	switch strings.ToLower(strings.TrimSpace(mode)) {
	case "", "copy":
	case "delete":
		o.mirror = true
	default:
		return o, fmt.Errorf("invalid local exporter mode %q: want copy or delete", mode)
	}
	return o, nil
}

// splits tells whether every platform gets a directory.
func (o fileOptions) splits(in Input) bool {
	if o.split != nil {
		return *o.split
	}
	return in.Multi
}

// open returns the files of one platform with its attestations among them.
func (f *rootfs) open(ctx context.Context, in Input, p Platform, o fileOptions, r Request) (fsutil.FS, error) {
	v, err := files(ctx, f.trees, r, p.Tree)
	if err != nil {
		return nil, err
	}
	epoch := o.epoch.of(in, p)
	root, err := newViewFS(v, o.src, epoch)
	if err != nil {
		return nil, err
	}
	list, err := unbundle(ctx, f.trees, r, withoutInlineOnly(in.Attestations[p.ID]))
	if err != nil || len(list) == 0 {
		return root, err
	}
	subjects, err := root.subjects(ctx)
	if err != nil {
		return nil, err
	}
	statements, err := states(ctx, f.trees, r, list, subjects)
	if err != nil {
		return nil, err
	}
	at := time.Now().Truncate(time.Second)
	if epoch != nil {
		at = *epoch
	}
	written := memFS{}
	for i, s := range statements {
		name := o.prefix + path.Base(list[i].Path)
		if in.Multi && !o.splits(in) {
			ext := path.Ext(name)
			name = strings.TrimSuffix(name, ext) + "." + platformDir(p.ID) + ext
		}
		if _, ok := written[name]; ok {
			return nil, fmt.Errorf("duplicate attestation path name %s", name)
		}
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("encode attestation %s: %w", name, err)
		}
		st := &fstypes.Stat{Path: name, Mode: 0o600, Size: int64(len(data)), ModTime: at.UnixNano()}
		written[name] = memFile{stat: st, data: data}
	}
	return mergedFS{root, written}, nil
}

// subjects names every regular file with its digest, which the layers' indexes
// have.
func (f *viewFS) subjects(ctx context.Context) ([]named, error) {
	out := []named{}
	err := f.view.Walk(f.root, func(p string, e digest.Entry) error {
		if rel, ok := f.rel(p); ok && e.Mode&unix.S_IFMT == unix.S_IFREG {
			dgst := godigest.NewDigestFromBytes(godigest.SHA256, e.Hash[:])
			out = append(out, named{Name: rel, Digest: digestMap(dgst)})
		}
		return ctx.Err()
	})
	return out, err
}

// inDir puts the files of a platform into its directory.
func inDir(in Input, p Platform, o fileOptions, fs fsutil.FS) fsutil.Dir {
	st := &fstypes.Stat{Mode: uint32(os.ModeDir | 0o755), Path: platformDir(p.ID)}
	if t := o.epoch.of(in, p); t != nil {
		st.ModTime = t.UnixNano()
	}
	return fsutil.Dir{FS: fs, Stat: st}
}

// owners remembers which platform a path came from, where several share a
// directory.
type owners map[string]string

// claim fails if a file of fs lies where one of another platform does.
func (own owners) claim(ctx context.Context, platform string, fs fsutil.FS) error {
	return fs.Walk(ctx, "", func(p string, e gofs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if first, ok := own[p]; ok {
			return fmt.Errorf("cannot overwrite %s from %s with %s when split option is disabled", p, first, platform)
		}
		own[p] = platform
		return nil
	})
}
