package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/buildd/buildd/cache"
)

// prepareDirs makes the store's directories and empties those that only hold
// what is in the making.
func (s *Store) prepareDirs() error {
	for _, dir := range []string{mountsDir, trashDir, layersDir, draftsDir, flatsDir, emptyDir, emptyDir + "/0", emptyDir + "/1"} {
		// The files of containers lie below: root in a container is no other
		// user, and others have no business there.
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	for _, dir := range []string{emptyDir + "/0", emptyDir + "/1"} {
		if err := os.Chmod(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := unmountBelow(s.path(mountsDir)); err != nil {
		return err
	}
	for _, dir := range []string{mountsDir, draftsDir, flatsDir, trashDir} {
		if err := s.clear(dir, func(string) bool { return true }); err != nil {
			return err
		}
	}
	// Mounts made below do not spread to other mount namespaces.
	mounts := s.path(mountsDir)
	if err := unix.Mount(mounts, mounts, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", mounts, err)
	}
	if err := unix.Mount("", mounts, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts below %s private: %w", mounts, err)
	}
	return nil
}

// clear removes the entries of a directory that gone names.
func (s *Store) clear(dir string, gone func(name string) bool) error {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !gone(e.Name()) {
			continue
		}
		if err := os.RemoveAll(s.path(dir, e.Name())); err != nil {
			return fmt.Errorf("remove what a crash has left: %w", err)
		}
	}
	return nil
}

// unmountBelow unmounts dir, as often as something is mounted there, and all
// below it.
func unmountBelow(dir string) error {
	real, err := realPath(dir)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != real && !strings.HasPrefix(m.Mountpoint, real+"/"), false
	})
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	// What was mounted later may hide what was mounted before.
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// load reads the records and checks them against the directories.
func (s *Store) load() error {
	parents := map[cache.Tree]cache.Tree{}
	tops := map[cache.Tree]cache.LayerID{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		err := tx.Bucket(layersBucket).ForEach(func(k, v []byte) error {
			r, err := decodeLayer(k, v)
			if err != nil {
				s.cfg.Log.Error("drop the record of a layer", "err", err)
				s.dirtyLayers[cache.LayerID(k)] = struct{}{}
				return nil
			}
			s.layers[r.id] = r
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(treesBucket).ForEach(func(k, v []byte) error {
			t := cache.Tree(k)
			parents[t], tops[t] = decodeTree(v)
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := s.checkDirs(); err != nil {
		return err
	}
	s.link(parents, tops)
	return nil
}

// checkDirs drops layers whose directories are missing, and directories that
// belong to no layer. A layer of an image can be had again, so it stays.
func (s *Store) checkDirs() error {
	used := map[string]bool{}
	for id, r := range s.layers {
		if r.Dir == "" {
			continue
		}
		ok, err := s.complete(r.Dir)
		switch {
		case err != nil:
			return err
		case ok:
			used[r.Dir] = true
			continue
		case r.Desc != nil:
			s.cfg.Log.Warn("the files of a layer are gone, it will be fetched again", "layer", id)
			r.Dir, r.Size = "", 0
		default:
			s.cfg.Log.Warn("the files of a layer are gone, and with them all trees over it", "layer", id)
			delete(s.layers, id)
		}
		s.dirtyLayers[id] = struct{}{}
	}
	return s.clear(layersDir, func(name string) bool { return !used[name] })
}

func (s *Store) complete(dir string) (bool, error) {
	for _, name := range []string{fsName, indexName} {
		if _, err := os.Lstat(s.path(layersDir, dir, name)); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return false, nil
			}
			return false, err
		}
	}
	return true, nil
}

// link makes the nodes of all trees whose layers are there.
func (s *Store) link(parents map[cache.Tree]cache.Tree, tops map[cache.Tree]cache.LayerID) {
	// Chains may be long, so they are walked, not recursed into.
	for t := range parents {
		var open []cache.Tree
		for u := t; u != "" && s.trees[u] == nil; u = parents[u] {
			if _, ok := parents[u]; !ok || len(open) > len(parents) {
				break
			}
			open = append(open, u)
		}
		for _, u := range slices.Backward(open) {
			parent, r := s.trees[parents[u]], s.layers[tops[u]]
			if r == nil || parents[u] != "" && parent == nil || nameOf(parents[u], tops[u]) != u {
				s.dirtyTrees[u] = struct{}{}
				continue
			}
			s.trees[u] = newNode(parent, r)
		}
	}
}
