package lower

import (
	"errors"
	"fmt"
	"path"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// secret lowers RUN --mount=type=secret: a file, a variable, or both.
func (in *instruction) secret(m *instructions.Mount) (llb.RunOption, error) {
	onWindows := in.s.platform.OS == windows
	target := toSlash(m.Target, in.s.platform.OS)
	id := m.CacheID
	if m.Source != "" {
		id = m.Source
	}
	if id == "" {
		if target == "" {
			return nil, errors.New("secret mount: one of id, target required")
		}
		id = path.Base(target)
	}
	const right = "e.g. --mount=type=secret,id=%s,target=C:/path/to/secret"
	switch {
	case onWindows && target != "" && !isAbs(target, windows):
		return nil, fmt.Errorf("secret target %q must be an absolute path with forward slashes on Windows, "+right, target, id)
	case target != "" || m.Env != nil:
	case onWindows:
		return nil, fmt.Errorf("secret target is required on Windows, "+right, id)
	default:
		target = "/run/secrets/" + path.Base(id)
	}
	in.s.outline.noteSecret(id, m.Required, in.Location())

	opts := []llb.SecretOption{llb.SecretID(id)}
	if !m.Required {
		opts = append(opts, llb.SecretOptional)
	}
	if m.Env != nil {
		opts = append(opts, llb.SecretAsEnvName(*m.Env))
	}
	if m.UID != nil || m.GID != nil || m.Mode != nil {
		opts = append(opts, llb.SecretFileOpt(int(value(m.UID, 0)), int(value(m.GID, 0)), int(value(m.Mode, 0o400))))
	}
	var dest *string
	if target != "" {
		dest = &target
	}
	return llb.AddSecretWithDest(id, dest, opts...), nil
}

// ssh lowers RUN --mount=type=ssh: the socket of an agent of the client.
func (in *instruction) ssh(m *instructions.Mount) (llb.RunOption, error) {
	if m.Source != "" {
		return nil, fmt.Errorf("ssh does not support source (%q), name the agent with id", m.Source)
	}
	id := m.CacheID
	if id == "" {
		id = "default"
	}
	in.s.outline.noteSSH(id, m.Required, in.Location())

	opts := []llb.SSHOption{llb.SSHID(m.CacheID)}
	if m.Target != "" {
		opts = append(opts, llb.SSHSocketTarget(m.Target))
	}
	if !m.Required {
		opts = append(opts, llb.SSHOptional)
	}
	if m.UID != nil || m.GID != nil || m.Mode != nil {
		uid, gid, mode := value(m.UID, 0), value(m.GID, 0), value(m.Mode, 0o600)
		opts = append(opts, llb.SSHSocketOpt(m.Target, int(uid), int(gid), int(mode)))
	}
	return llb.AddSSHSocket(opts...), nil
}

// maskSecrets makes variables that are secrets show as such in the name of a vertex. Their values are not known here anyhow.
func maskSecrets(c *instructions.RunCommand, env *vars) shell.EnvGetter {
	masks := newVars()
	for _, m := range instructions.GetMounts(c) {
		if m.Type == instructions.MountTypeSecret && m.Env != nil {
			masks.set(*m.Env, "****")
		}
	}
	return overlay{over: masks, below: env}
}
