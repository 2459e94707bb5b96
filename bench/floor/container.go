package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// base unpacks a root file system of the fixtures.
func base(p place, tar string) (string, error) {
	root := filepath.Join(p.dir, "base")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	if out, err := exec.Command("tar", "-C", root, "-xf", tar).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w\n%s", tar, err, out)
	}
	unix.Sync()
	return root, nil
}

// container runs a command on a writable overlay of a root file system: with
// namespaces of its own and nothing else that isolates.
func container(p place, root, name string, network bool, args ...string) error {
	dir := filepath.Join(p.dir, name)
	merged := filepath.Join(dir, "m")
	for _, d := range []string{dir, dir + "/u", dir + "/w", merged} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/u,workdir=%s/w,volatile", root, dir, dir)); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	flags := unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if network {
		flags |= unix.CLONE_NEWNET
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Path, cmd.Err = args[0], nil // a path inside
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: merged, Cloneflags: uintptr(flags)}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %q: %w", args, err)
	}
	return nil
}

// steps runs n containers that do nothing, one after the other.
func steps(p place, n int, network bool) (time.Duration, error) {
	root, err := base(p, filepath.Join(p.fixtures, "busybox.tar"))
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range n {
		if err := container(p, root, strconv.Itoa(i), network, "/bin/sh", "-c", "true"); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// sleepers runs 8 containers at once that sleep for a second, and copies what
// they wrote.
func sleepers(p place) (time.Duration, error) {
	root, err := base(p, filepath.Join(p.fixtures, "busybox.tar"))
	if err != nil {
		return 0, err
	}
	start := time.Now()
	var eg errgroup.Group
	for i := range 8 {
		eg.Go(func() error {
			return container(p, root, strconv.Itoa(i), false, "/bin/sh", "-c", "sleep 1; echo x > /out")
		})
	}
	if err := eg.Wait(); err != nil {
		return 0, err
	}
	for i := range 8 {
		if err := os.Link(filepath.Join(p.dir, strconv.Itoa(i), "u", "out"), filepath.Join(p.dir, fmt.Sprint("out", i))); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// dpkg installs the packages of w9.
func dpkg(p place) (time.Duration, error) {
	root, err := base(p, filepath.Join(p.fixtures, "debian.tar"))
	if err != nil {
		return 0, err
	}
	if err := os.Mkdir(filepath.Join(root, "debs"), 0o755); err != nil {
		return 0, err
	}
	debs, err := filepath.Glob(filepath.Join(p.fixtures, "fixture-debs", "*.deb"))
	if err != nil || len(debs) == 0 {
		return 0, fmt.Errorf("find packages: %d, %v", len(debs), err)
	}
	for _, d := range debs {
		if err := copyFile(filepath.Join(root, "debs", filepath.Base(d)), d); err != nil {
			return 0, err
		}
	}
	unix.Sync()
	start := time.Now()
	err = container(p, root, "dpkg", false, "/bin/sh", "-c", "dpkg -i /debs/*.deb")
	return time.Since(start), err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// cutoff is one container and one client.
func cutoff(p place) (time.Duration, error) {
	root, err := base(p, filepath.Join(p.fixtures, "busybox.tar"))
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := container(p, root, "step", false, "/bin/sh", "-c", "echo same > /out"); err != nil {
		return 0, err
	}
	step := time.Since(start)
	asked, err := client(p)
	return step + asked, err
}
