package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// change applies the values of --change, instructions of a Dockerfile that speak
// of the configuration alone.
func change(img *dockerspec.DockerOCIImage, values []string) error {
	for _, s := range values {
		if err := changeOne(img, s); err != nil {
			return fmt.Errorf("--change %q: %w", s, err)
		}
	}
	return nil
}

func changeOne(img *dockerspec.DockerOCIImage, s string) error {
	ast, err := parser.Parse(strings.NewReader("FROM scratch\n" + s + "\n"))
	if err != nil {
		return err
	}
	stages, _, err := instructions.Parse(ast.AST, nil)
	if err != nil {
		return err
	}
	if len(stages) != 1 || len(stages[0].Commands) != 1 {
		return errors.New("want one instruction")
	}
	return apply(&img.Config, stages[0].Commands[0])
}

func apply(c *dockerspec.DockerOCIImageConfig, cmd instructions.Command) error {
	switch i := cmd.(type) {
	case *instructions.CmdCommand:
		c.Cmd = command(c, i.ShellDependantCmdLine)
		//lint:ignore SA1019 Docker on Windows still reads it
		c.ArgsEscaped = false
	case *instructions.EntrypointCommand:
		c.Entrypoint = command(c, i.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, kv := range i.Env {
			v, err := word(c, kv.Value)
			if err != nil {
				return err
			}
			c.Env = setEnv(c.Env, kv.Key, v)
		}
	case *instructions.LabelCommand:
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for _, kv := range i.Labels {
			k, err := word(c, kv.Key)
			if err != nil {
				return err
			}
			if c.Labels[k], err = word(c, kv.Value); err != nil {
				return err
			}
		}
	case *instructions.ExposeCommand:
		for _, p := range i.Ports {
			if !strings.Contains(p, "/") {
				p += "/tcp"
			}
			c.ExposedPorts = withKey(c.ExposedPorts, p)
		}
	case *instructions.VolumeCommand:
		for _, v := range i.Volumes {
			c.Volumes = withKey(c.Volumes, v)
		}
	case *instructions.UserCommand:
		c.User = i.User
	case *instructions.WorkdirCommand:
		c.WorkingDir = i.Path
	case *instructions.StopSignalCommand:
		c.StopSignal = i.Signal
	case *instructions.HealthCheckCommand:
		c.Healthcheck = i.Health
	case *instructions.OnbuildCommand:
		c.OnBuild = append(c.OnBuild, i.Expression)
	case *instructions.ShellCommand:
		c.Shell = i.Shell
	default:
		return fmt.Errorf("%s is not about the configuration: want CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR", cmd.Name())
	}
	return nil
}

// command returns a command line as it is kept: with a shell before it unless it
// was written as JSON.
func command(c *dockerspec.DockerOCIImageConfig, l instructions.ShellDependantCmdLine) []string {
	if !l.PrependShell {
		return l.CmdLine
	}
	before := []string{"/bin/sh", "-c"}
	if len(c.Shell) > 0 {
		before = c.Shell
	}
	return append(slices.Clone(before), strings.Join(l.CmdLine, " "))
}

func setEnv(env []string, key, value string) []string {
	for i, e := range env {
		if strings.HasPrefix(e, key+"=") {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

func withKey(m map[string]struct{}, key string) map[string]struct{} {
	if m == nil {
		m = map[string]struct{}{}
	}
	m[key] = struct{}{}
	return m
}

// word takes off quotes and puts in variables, as a Dockerfile's words have them.
func word(c *dockerspec.DockerOCIImageConfig, s string) (string, error) {
	out, _, err := shell.NewLex('\\').ProcessWord(s, shell.EnvsFromSlice(c.Env))
	return out, err
}
