package lower

import (
	"fmt"
	"os"
	"path"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/solver/pb"
)

// mounts lowers RUN --mount. https://docs.docker.com/reference/dockerfile/#run---mount
func (in *instruction) mounts(c *instructions.RunCommand) ([]llb.RunOption, error) {
	var out []llb.RunOption
	for i, m := range instructions.GetMounts(c) {
		var from *stage
		if i < len(in.from) {
			from = in.from[i]
		}
		opt, err := in.mount(m, from)
		if err != nil {
			return nil, err
		}
		out = append(out, opt)
	}
	return out, nil
}

// mount lowers one mount; from is the stage that it names, nil if none.
func (in *instruction) mount(m *instructions.Mount, from *stage) (llb.RunOption, error) {
	switch m.Type {
	case instructions.MountTypeSecret:
		return in.secret(m)
	case instructions.MountTypeSSH:
		return in.ssh(m)
	case instructions.MountTypeBind, instructions.MountTypeCache, instructions.MountTypeTmpfs:
		return in.fileMount(m, from)
	default:
		return nil, fmt.Errorf("unsupported mount type %q", m.Type)
	}
}

// fileMount lowers a mount that has a directory of files behind it.
func (in *instruction) fileMount(m *instructions.Mount, from *stage) (llb.RunOption, error) {
	target, err := in.mountTarget(m)
	if err != nil {
		return nil, err
	}
	st, err := in.mountSource(m, from)
	if err != nil {
		return nil, err
	}
	var opts []llb.MountOption
	switch m.Type {
	case instructions.MountTypeTmpfs:
		opts = append(opts, llb.Tmpfs(llb.TmpfsSize(m.SizeLimit)))
	case instructions.MountTypeCache:
		opts = append(opts, in.cacheDir(m))
	}
	switch {
	case m.ReadOnly:
		opts = append(opts, llb.Readonly)
	case m.Type == instructions.MountTypeBind && in.o.has(pb.CapExecMountBindReadWriteNoOutput):
		opts = append(opts, llb.ForceNoOutput) // what is written there is thrown away
	}
	if src := path.Join("/", m.Source); src != "/" {
		opts = append(opts, llb.SourcePath(src))
	} else if m.UID != nil || m.GID != nil || m.Mode != nil {
		st = in.ownedDir(m, st)
		opts = append(opts, llb.SourcePath("/cache"))
	}
	return llb.AddMount(target, st, opts...), nil
}

func (in *instruction) mountTarget(m *instructions.Mount) (string, error) {
	target := toSlash(m.Target, in.s.platform.OS)
	if !isAbs(target, in.s.platform.OS) {
		target = path.Join("/", in.s.dir, target)
	}
	if path.Clean(target) == "/" {
		return "", fmt.Errorf("invalid mount target %q: it would hide the whole root; want target=DIR", target)
	}
	return target, nil
}

// mountSource returns the files that a mount begins with and notes which of them it reads.
func (in *instruction) mountSource(m *instructions.Mount, from *stage) (llb.State, error) {
	if from != nil && !from.ready {
		return llb.State{}, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", from.name(), m.Target)
	}
	switch {
	case m.Type == instructions.MountTypeTmpfs:
		return llb.Scratch(), nil
	case from != nil:
		from.used.add(m.Source)
		return from.state, nil
	case m.Type == instructions.MountTypeCache:
		return llb.Scratch(), nil
	default:
		in.contextUsed.add(m.Source)
		return in.context, nil
	}
}

// cacheDir says which cache a mount is. Without an ID it is the one for this target.
func (in *instruction) cacheDir(m *instructions.Mount) llb.MountOption {
	sharing := llb.CacheMountShared
	switch m.CacheSharing {
	case instructions.MountSharingPrivate:
		sharing = llb.CacheMountPrivate
	case instructions.MountSharingLocked:
		sharing = llb.CacheMountLocked
	}
	id := m.CacheID
	if id == "" {
		id = path.Clean(m.Target)
	}
	return llb.AsPersistentCacheDir(in.o.Run.CacheNamespace+"/"+id, sharing)
}

// ownedDir puts a directory into st that an empty cache is made as.
func (in *instruction) ownedDir(m *instructions.Mount, st llb.State) llb.State {
	owner := llb.WithUIDGID(int(value(m.UID, 0)), int(value(m.GID, 0)))
	return st.File(llb.Mkdir("/cache", os.FileMode(value(m.Mode, 0o755)), owner),
		internalName("setting cache mount permissions"),
		in.where(in.Location()),
	)
}

func value(p *uint64, otherwise uint64) uint64 {
	if p == nil {
		return otherwise
	}
	return *p
}
