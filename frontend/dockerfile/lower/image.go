package lower

import (
	"maps"
	"slices"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	unixPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	windowsPath = `c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`
)

// historyComment marks the history of images that were built from a Dockerfile by a builder of this family.
const historyComment = "buildkit.dockerfile.v0"

// emptyImage is the config that FROM scratch begins with.
func emptyImage(p ocispecs.Platform) dockerspec.DockerOCIImage {
	var img dockerspec.DockerOCIImage
	img.Platform = clonePlatform(p)
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != "windows" { // there it is the system's own business
		img.Config.Env = []string{"PATH=" + unixPath}
	}
	return img
}

func clonePlatform(p ocispecs.Platform) ocispecs.Platform {
	p.OSFeatures = slices.Clone(p.OSFeatures)
	return p
}

// cloneImage copies whatever the lowering of a stage changes in place.
func cloneImage(img dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	img.Platform = clonePlatform(img.Platform)
	c := &img.Config
	for _, s := range []*[]string{&c.Env, &c.Cmd, &c.Entrypoint, &c.OnBuild, &c.Shell} {
		*s = slices.Clone(*s)
	}
	c.ExposedPorts = maps.Clone(c.ExposedPorts)
	c.Volumes = maps.Clone(c.Volumes)
	c.Labels = maps.Clone(c.Labels)
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		h.Test = slices.Clone(h.Test)
		c.Healthcheck = &h
	}
	img.History = slices.Clone(img.History)
	return img
}

func cloneImagePtr(img *dockerspec.DockerOCIImage) *dockerspec.DockerOCIImage {
	if img == nil {
		return nil
	}
	c := cloneImage(*img)
	return &c
}

// shellOf returns the command that a shell form is the last argument of.
func shellOf(img *dockerspec.DockerOCIImage) []string {
	switch {
	case len(img.Config.Shell) > 0:
		return slices.Clone(img.Config.Shell)
	case img.OS == "windows":
		return []string{"cmd", "/S", "/C"}
	default:
		return []string{"/bin/sh", "-c"}
	}
}
