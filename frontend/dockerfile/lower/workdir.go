package lower

import (
	"fmt"
	"path"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// workdir also makes the directory, owned by the user of the image.
func (in *instruction) workdir(c *instructions.WorkdirCommand) error {
	s, os := in.s, in.s.platform.OS
	if !s.seen.workdir && !isAbs(c.Path, os) {
		// Only the first matters: the base image may change, and what follows is relative to what this file says.
		in.warn(&linter.RuleWorkdirRelativePath, linter.RuleWorkdirRelativePath.Format(c.Path))
	}
	s.seen.workdir = true
	wd, err := cleanPath(s.image.Config.WorkingDir, c.Path, os, false)
	if err != nil {
		return fmt.Errorf("normalize workdir: %w", err)
	}
	s.image.Config.WorkingDir = fromSlash(wd, os)
	s.setDir(wd)
	if path.Clean(wd) == "/" {
		return in.record("WORKDIR "+wd, false)
	}
	s.countVertex()
	mkdir := []llb.MkdirOption{llb.WithParents(true)}
	if u := s.image.Config.User; u != "" {
		mkdir = append(mkdir, llb.WithUser(u))
	}
	if in.epoch != nil {
		mkdir = append(mkdir, llb.WithCreatedTime(*in.epoch))
	}
	s.state = s.state.File(llb.Mkdir(wd, 0o755, mkdir...),
		llb.WithCustomName(in.title(s, upper(in.expand.title(c.String(), s.env)), s.env)),
		in.where(in.Location()),
		llb.Platform(*s.platform),
	)
	return in.record("WORKDIR "+wd, true)
}
