package cache

import (
	"errors"
	"time"
)

// ErrNotFound is returned, possibly wrapped, by stores for what they do not
// hold.
var ErrNotFound = errors.New("not in the cache")

// ErrLost is returned, wrapped, where files are needed that a remote cache
// promised and that cannot be had, or are not what was promised. A step whose
// result they are can be run instead.
var ErrLost = errors.New("a layer of an imported cache cannot be had")

// Tree is the immutable name of a chain of layers. The empty Tree is the empty
// file system (FROM scratch). A Tree holds no resource; a lease does.
type Tree string

// LayerID is the immutable name of one layer: the chain ID of a layer that
// came with an image (OCI image-spec, config.md, "Layer ChainID", as
// "sha256:<hex>"), else 32 random hexadecimal digits.
type LayerID string

// Selector says which files of a tree count for a step: [Root] for all of them,
// else the encoded form of a digest.Selection. The empty Selector means that the
// input counts by its key alone.
type Selector string

// Root selects a whole root file system.
const Root Selector = "/"

// Record is what the action cache keeps of a step that ran.
type Record struct {
	// Trees are the step's outputs in the order of the LLB op's outputs.
	Trees []Tree `json:"trees"`
	// Name is what the step was called when it ran, for du and why.
	Name string `json:"name,omitempty"`
	// Kind is the client.UsageRecordType of the record, such as "regular".
	Kind     string        `json:"kind,omitempty"`
	Created  time.Time     `json:"created"`
	LastUsed time.Time     `json:"lastUsed"`
	UseCount int           `json:"useCount"`
	Duration time.Duration `json:"duration"`
}
