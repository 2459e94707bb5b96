package digest

// Selection says which files of a tree a step sees. Encoded, it is a
// cache.Selector.
type Selection struct {
	Paths []Select `json:"paths"`
}

// Select names one path, or with Wildcard all that match it.
type Select struct {
	// Path is absolute within the tree; symbolic links in all but its last
	// element are resolved within the tree.
	Path string `json:"path"`
	// FollowLinks resolves the last element too.
	FollowLinks bool `json:"followLinks,omitempty"`
	// Wildcard gives * ? and [ in Path the meaning that Go's path.Match gives them.
	Wildcard bool `json:"wildcard,omitempty"`
	// Include and Exclude restrict a directory's files, as moby/patternmatcher
	// reads them, relative to that directory.
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// FollowPaths of a local context are handled before a tree exists.

	// Contents leaves the name and metadata of the selected directory itself
	// out: only what is in it counts.
	Contents bool `json:"contents,omitempty"`
}
