package lower

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/solver/pb"
)

// transfer is an ADD or a COPY. https://docs.docker.com/reference/dockerfile/#copy
type transfer struct {
	instructions.SourcesAndDest
	code     string // as written
	name     string // ADD or COPY
	from     llb.State
	used     *usedPaths // of from
	context  bool       // from is the build context
	chown    string
	chmod    string
	excludes []string
	link     bool
	parents  bool

	// of ADD alone
	remote     bool // sources may be URLs
	keepGitDir *bool
	unpack     *bool // nil: local archives, but nothing that was downloaded
	checksum   string

	dest  string
	title string
	mode  *llb.ChmodOpt
	opts  []llb.CopyOption
}

func (in *instruction) copy(c *instructions.CopyCommand) error {
	t := &transfer{
		SourcesAndDest: c.SourcesAndDest,
		code:           c.String(),
		name:           "COPY",
		from:           in.context,
		used:           &in.contextUsed,
		context:        len(in.from) == 0,
		chown:          c.Chown,
		chmod:          c.Chmod,
		excludes:       c.ExcludePatterns,
		link:           c.Link,
		parents:        c.Parents,
	}
	if len(in.from) > 0 {
		f := in.from[0]
		if !f.ready {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", c.From, in.s.name())
		}
		t.from, t.used = f.state, f.used
	}
	return in.transfer(t)
}

func (in *instruction) add(c *instructions.AddCommand) error {
	return in.transfer(&transfer{
		SourcesAndDest: c.SourcesAndDest,
		code:           c.String(),
		name:           "ADD",
		from:           in.context,
		used:           &in.contextUsed,
		context:        true,
		chown:          c.Chown,
		chmod:          c.Chmod,
		excludes:       c.ExcludePatterns,
		link:           c.Link,
		remote:         true,
		keepGitDir:     c.KeepGitDir,
		unpack:         c.Unpack,
		checksum:       c.Checksum,
	})
}

func (in *instruction) transfer(t *transfer) error {
	in.s.countVertex()
	if err := in.prepare(t); err != nil {
		return err
	}
	var action *llb.FileAction
	for _, src := range t.SourcePaths {
		a, err := in.copyFrom(t, action, src)
		if err != nil {
			return err
		}
		action = a
	}
	for _, doc := range t.SourceContents {
		a, err := in.copyInline(t, action, doc)
		if err != nil {
			return err
		}
		action = a
	}
	in.apply(t, action)
	return in.record(t.history(), true)
}

// prepare works out what all sources of a transfer share.
func (in *instruction) prepare(t *transfer) error {
	s := in.s
	dest := t.DestPath
	if dest == "." || dest == "" {
		dest = "./" // a directory, whatever it is
	}
	var err error
	if t.dest, err = cleanPath(s.dir, dest, s.platform.OS, true); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if t.mode, err = parseMode(t.chmod); err != nil {
		return err
	}
	if t.chown != "" {
		owner := llb.WithUser(t.chown)
		if o, ok := owner.(llb.ChownOpt); ok && t.link && (byName(o.User) || byName(o.Group)) {
			return fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", t.chown)
		}
		t.opts = append(t.opts, owner)
	}
	if len(t.excludes) > 0 {
		t.opts = append(t.opts, llb.WithExcludePatterns(t.excludes))
	}
	if err := t.checkChecksum(); err != nil {
		return err
	}
	t.title = upper(in.expand.title(t.code, s.env))
	return nil
}

func byName(u *llb.UserOpt) bool { return u != nil && u.Name != "" }

// options are those of one copy action.
func (t *transfer) options(info llb.CopyInfo) []llb.CopyOption {
	info.Mode, info.CreateDestPath = t.mode, true
	return append([]llb.CopyOption{&info}, t.opts...)
}

// copyFrom adds the copy of one source to an action, which is nil for the first.
func (in *instruction) copyFrom(t *transfer, action *llb.FileAction, src string) (*llb.FileAction, error) {
	r, err := parseRemote(src)
	if err != nil {
		return nil, err
	}
	if r != nil {
		return in.copyRemote(t, action, r)
	}
	if t.context {
		in.checkIgnored(src)
	}
	t.used.add(toSlash(src, in.s.platform.OS))
	info := llb.CopyInfo{
		FollowSymlinks:      true,
		CopyDirContentsOnly: true,
		AttemptUnpack:       t.remote,
		AllowWildcard:       true,
		AllowEmptyWildcard:  true,
	}
	if t.unpack != nil {
		info.AttemptUnpack = *t.unpack
	}
	if t.parents {
		if src, err = withParents(src, in.s.platform.OS, &info); err != nil {
			return nil, err
		}
	}
	if src, err = cleanPath("/", src, in.s.platform.OS, false); err != nil {
		return nil, err
	}
	return action.Copy(t.from, src, t.dest, t.options(info)...), nil
}

// withParents splits a source of COPY --parents into the directory that is copied from and a pattern below it, so that the
// directories of the pattern come along. "/./" in the source is where they begin.
func withParents(src, os string, info *llb.CopyInfo) (dir string, err error) {
	dir, pattern, ok := strings.Cut(toSlash(src, os), "/./")
	if !ok {
		dir, pattern = "/", dir
	}
	if pattern, err = cleanPath("/", pattern, os, false); err != nil {
		return "", err
	}
	info.IncludePatterns = []string{strings.TrimPrefix(pattern, "/")}
	if !hasWildcard(dir) && !hasWildcard(pattern) { // a pattern may match nothing, a path must be there
		required, err := cleanPath("/", path.Join(dir, pattern), os, false)
		if err != nil {
			return "", err
		}
		info.RequiredPaths = []string{required}
	}
	return dir, nil
}

func hasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// copyInline adds the copy of a heredoc.
func (in *instruction) copyInline(t *transfer, action *llb.FileAction, doc instructions.SourceContent) (*llb.FileAction, error) {
	name, err := withoutDrive(doc.Path, in.s.platform.OS, false)
	if err != nil {
		return nil, err
	}
	st := llb.Scratch().File(llb.Mkfile(name, 0o644, []byte(doc.Data)),
		internalName("preparing inline document"),
		llb.Platform(*in.s.platform),
		in.where(in.Location()),
	)
	return action.Copy(st, name, t.dest, t.options(llb.CopyInfo{})...), nil
}

// apply makes the vertex of a transfer: a file op on the stage, or with --link one on nothing that is merged with it, so that it
// stays cached whatever happens below.
func (in *instruction) apply(t *transfer, action *llb.FileAction) {
	s := in.s
	name := in.title(s, t.title, s.env)
	opts := []llb.ConstraintsOpt{in.where(in.Location())}
	if s.noCache {
		opts = append(opts, llb.IgnoreCache)
	}
	// A mode may be relative to what is there already.
	if !t.link || t.chmod != "" || !in.o.has(pb.CapMergeOp) {
		s.state = s.state.File(action, append(opts, llb.WithCustomName(name), describe(t.code))...)
		return
	}
	group := fmt.Sprintf("%s-%d-%d", in.group, s.index, s.number)
	copied := llb.Scratch().File(action, append(opts[:len(opts):len(opts)],
		llb.WithCustomName(name), describe(t.code), llb.ProgressGroup(group, name, true), llb.Platform(*s.platform))...)
	link := llb.Merge([]llb.State{s.state, copied}, append(opts[:len(opts):len(opts)],
		llb.WithCustomName(in.title(s, "LINK "+t.title, s.env)), llb.ProgressGroup(group, name, false))...)
	s.state = s.state.WithOutput(link.Output())
}

// history is the transfer as the image's history has it, with words expanded.
func (t *transfer) history() string {
	words := []string{t.name}
	if t.parents {
		words = append(words, "--parents")
	}
	if t.chown != "" {
		words = append(words, "--chown="+t.chown)
	}
	if t.chmod != "" {
		words = append(words, "--chmod="+t.chmod)
	}
	words = append(words, t.SourcePaths...)
	for _, doc := range t.SourceContents {
		words = append(words, "<<"+doc.Path)
	}
	return strings.Join(append(words, t.DestPath), " ") + builtSuffix
}
