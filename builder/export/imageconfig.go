package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/buildd/buildd/cache/remote"
	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// inlineCacheKey is where image configs carry an inline cache.
const inlineCacheKey = remote.Field

// defaultPath is PATH of an image whose frontend made no config.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// imageConfig makes the config of one platform of the image out of the
// frontend's. Fields that it does not know stay as they are: Docker's config
// has more than OCI's.
func imageConfig(p Platform, c chain, epoch *time.Time, inlineCache []byte) ([]byte, error) {
	config := p.Config
	if len(config) == 0 {
		var err error
		if config, err = defaultConfig(p.Platform); err != nil {
			return nil, err
		}
	}
	var img ocispecs.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, fmt.Errorf("invalid image config for export: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, fmt.Errorf("invalid image config for export: %w", err)
	}
	if err := validateConfig(img, fields); err != nil {
		return nil, err
	}
	history, err := configHistory(p, img, c, epoch)
	if err != nil {
		return nil, err
	}
	set := func(key string, v any) {
		if err == nil {
			fields[key], err = json.Marshal(v)
		}
	}
	set("rootfs", ocispecs.RootFS{Type: "layers", DiffIDs: c.diffIDs})
	set("history", history)
	if created, ok := configCreated(img, fields, history, epoch); ok {
		set("created", created)
	}
	if inlineCache != nil {
		set(inlineCacheKey, inlineCache)
	}
	if err != nil {
		return nil, fmt.Errorf("encode image config: %w", err)
	}
	return json.Marshal(fields)
}

func validateConfig(img ocispecs.Image, fields map[string]json.RawMessage) error {
	switch {
	case fields == nil:
		return errors.New("invalid null image config for export")
	case img.OS == "":
		return errors.New("invalid image config for export: missing os")
	case img.Architecture == "":
		return errors.New("invalid image config for export: missing architecture")
	default:
		return nil
	}
}

func configHistory(p Platform, img ocispecs.Image, c chain, epoch *time.Time) ([]ocispecs.History, error) {
	history := fitHistory(img.History, c.infos)
	if history == nil {
		history = []ocispecs.History{}
	}
	if epoch == nil {
		return history, nil
	}
	var base ocispecs.Image
	if len(p.BaseConfig) > 0 {
		if err := json.Unmarshal(p.BaseConfig, &base); err != nil {
			return nil, fmt.Errorf("read base image config: %w", err)
		}
	}
	clampHistory(history, *epoch, baseHistory(img.History, base.History))
	return history, nil
}

// configCreated returns what "created" becomes, and whether it has to change.
func configCreated(img ocispecs.Image, fields map[string]json.RawMessage, history []ocispecs.History, epoch *time.Time) (*time.Time, bool) {
	if _, ok := fields["created"]; ok {
		late := epoch != nil && img.Created != nil && img.Created.After(*epoch)
		return epoch, late
	}
	var last *time.Time
	for _, h := range history {
		if h.Created != nil {
			last = h.Created
		}
	}
	return last, last != nil
}

// createdOf returns when an image was made, nil if its config does not say.
func createdOf(config []byte) *time.Time {
	var img struct {
		Created *time.Time `json:"created"`
	}
	if json.Unmarshal(config, &img) != nil {
		return nil
	}
	return img.Created
}

// defaultConfig is the config of a result that is only files.
func defaultConfig(p ocispecs.Platform) ([]byte, error) {
	p = platforms.Normalize(p)
	img := ocispecs.Image{Platform: p}
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != "windows" { // which has no useful default
		img.Config.Env = []string{defaultPath}
	}
	config, err := json.Marshal(img)
	if err != nil {
		return nil, fmt.Errorf("make image config: %w", err)
	}
	return config, nil
}
