package op

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/draft"
	"github.com/buildd/buildd/worker/mount"
	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// errAbsent stands for an optional mount that is left out.
var errAbsent = errors.New("optional mount is left out")

// inMemory returns the sandbox's file system in memory.
func (s *sandbox) inMemory() (*mount.Memory, error) {
	if s.memory != nil {
		return s.memory, nil
	}
	m, err := mount.NewMemory(filepath.Join(s.dir, "memory"))
	if err != nil {
		return nil, err
	}
	s.memory = m
	s.onClose(m.Close)
	return m, nil
}

func (s *sandbox) secret(ctx context.Context, dest string, m *pb.Mount) (specs.Mount, error) {
	o := m.SecretOpt
	value, err := session.Secret(ctx, s.req.client, o.ID)
	if o.Optional && errors.Is(err, session.ErrNotFound) {
		return specs.Mount{}, errAbsent
	}
	if err != nil {
		return specs.Mount{}, err
	}
	mem, err := s.inMemory()
	if err != nil {
		return specs.Mount{}, err
	}
	src, err := mem.WriteFile(value, o.Uid, o.Gid, os.FileMode(o.Mode&0o777))
	if err != nil {
		return specs.Mount{}, err
	}
	opts := []string{"bind", "ro", "nosuid", "nodev", "rprivate"}
	if o.Mode&0o111 == 0 {
		opts = append(opts, "noexec")
	}
	return specs.Mount{Destination: dest, Type: "bind", Source: src, Options: opts}, nil
}

func (s *sandbox) ssh(ctx context.Context, dest string, m *pb.Mount) (specs.Mount, error) {
	mem, err := s.inMemory()
	if err != nil {
		return specs.Mount{}, err
	}
	// The path of a socket is limited to 107 bytes, which a state directory may
	// exceed; by way of a descriptor it is short.
	fd, err := unix.Open(mem.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return specs.Mount{}, err
	}
	s.onClose(func() error { return unix.Close(fd) })
	short := fmt.Sprintf("/proc/self/fd/%d", fd)
	o := m.SSHOpt
	agent, err := session.MountSSH(ctx, s.req.client, session.SSH{
		ID: o.ID, Dir: short, UID: int(o.Uid), GID: int(o.Gid), Mode: os.FileMode(o.Mode & 0o777),
	})
	if o.Optional && errors.Is(err, session.ErrNotFound) {
		return specs.Mount{}, errAbsent
	}
	if err != nil {
		return specs.Mount{}, err
	}
	s.onClose(func() error {
		if err := agent.Close(); !errors.Is(err, net.ErrClosed) { // its context may have closed it first
			return err
		}
		return nil
	})
	src := filepath.Join(mem.Dir, strings.TrimPrefix(agent.Path, short))
	return specs.Mount{
		Destination: dest, Type: "bind", Source: src, Options: []string{"bind", "nosuid", "nodev", "noexec", "rprivate"},
	}, nil
}

// acquireCaches gets the directories of all cache mounts, in an order that is
// the same for all steps, so that two that lock the same ones never wait for
// each other. One that is mounted twice in a step is the same directory.
func (s *sandbox) acquireCaches(ctx context.Context) error {
	type wanted struct {
		p *plannedMount
		r mount.Request
	}
	var all []wanted
	for i := range s.mounts {
		p := &s.mounts[i]
		if p.m == nil || p.m.MountType != pb.MountType_CACHE {
			continue
		}
		r, err := s.cacheRequest(ctx, p.m)
		if err != nil {
			return fmt.Errorf("mount %s: %w", p.m.Dest, err)
		}
		all = append(all, wanted{p, r})
	}
	slices.SortStableFunc(all, func(a, b wanted) int { return cmp.Compare(a.r.Key().String(), b.r.Key().String()) })
	have := map[cache.Key]*mount.Cache{}
	for n, x := range all {
		c := have[x.r.Key()]
		if c == nil {
			var err error
			if c, err = s.w.Caches.Acquire(ctx, x.r); err != nil {
				return err
			}
			s.onClose(c.Release)
			have[x.r.Key()] = c
		}
		if err := s.bindCache(x.p, c.Dir, n); err != nil {
			return fmt.Errorf("mount %s: %w", x.p.m.Dest, err)
		}
	}
	return nil
}

// sharings are those of mount.Caches.
var sharings = map[pb.CacheSharingOpt]mount.Sharing{
	pb.CacheSharingOpt_SHARED: mount.Shared, pb.CacheSharingOpt_PRIVATE: mount.Private, pb.CacheSharingOpt_LOCKED: mount.Locked,
}

func (s *sandbox) cacheRequest(ctx context.Context, m *pb.Mount) (mount.Request, error) {
	r := mount.Request{ID: m.CacheOpt.ID, Sharing: sharings[m.CacheOpt.Sharing]}
	r.Description = fmt.Sprintf("cached mount %s from %s", m.Dest, s.req.name)
	if r.ID != m.Dest {
		r.Description += fmt.Sprintf(" with id %q", r.ID)
	}
	if m.Input == none || s.req.inputs[m.Input] == "" {
		return r, nil
	}
	// By content, not by name: the cache must outlive the record of the step that
	// made its base, which mostly is one mkdir.
	base := s.req.inputs[m.Input]
	var err error
	if r.Base, err = s.w.Trees.Content(ctx, base, cache.Root); err != nil {
		return r, err
	}
	r.Fill = func(ctx context.Context, dir string) error { return s.w.fill(ctx, base, dir) }
	return r, nil
}

// bindCache mounts the part of a cache directory that m selects. Other steps may
// be changing the directory, so it is not named by its path.
func (s *sandbox) bindCache(p *plannedMount, dir string, n int) error {
	src := dir
	if sel := clean(p.m.Selector); sel != "/" {
		b, err := mount.Bind(dir, strings.TrimPrefix(sel, "/"), filepath.Join(s.dir, "cache"+strconv.Itoa(n)))
		if err != nil {
			return err
		}
		s.onClose(b.Close)
		src, p.isDir = b.Path, b.IsDir
	}
	p.Mount = bindMount(p.Destination, src, p.m.Readonly)
	return nil
}

// fill writes all files of t into the empty directory dir. They are copies: a
// cache mount is written to in place.
func (w *Worker) fill(ctx context.Context, t cache.Tree, dir string) error {
	view, err := w.Trees.Files(ctx, t)
	if err != nil {
		return err
	}
	d, err := draft.New(dir, nil, draft.Options{UserXattr: w.UserXattr, IgnoreOwner: w.IgnoreOwner, NoLinks: true})
	if err != nil {
		return err
	}
	if err := d.Copy(ctx, view, "/", "/", draft.CopyOptions{Contents: true}); err != nil {
		return err
	}
	e, err := view.Lstat("/")
	if err != nil {
		return err
	}
	if err := d.SetAttr("/", draft.Attr{Mode: e.Mode &^ unix.S_IFMT, UID: e.UID, GID: e.GID, ModTime: e.ModTime, Xattrs: e.Xattrs}); err != nil {
		return err
	}
	_, err = d.Finish()
	return err
}
