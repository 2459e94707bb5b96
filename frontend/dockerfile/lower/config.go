package lower

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/sys/signal"
)

// Instructions that change the config of the image and nothing else.

func (in *instruction) maintainer(c *instructions.MaintainerCommand) error {
	in.s.image.Author = c.Maintainer
	return in.record("MAINTAINER "+c.Maintainer, false)
}

func (in *instruction) label(c *instructions.LabelCommand) error {
	labels := &in.s.image.Config.Labels
	if *labels == nil {
		*labels = map[string]string{}
	}
	text := "LABEL"
	for _, kv := range c.Labels {
		in.checkKeyValue(kv.NoDelim)
		(*labels)[kv.Key] = kv.Value
		text += " " + kv.String()
	}
	return in.record(text, false)
}

func (in *instruction) cmd(c *instructions.CmdCommand) error {
	in.checkOnce(&in.s.seen.cmd)
	cfg := &in.s.image.Config
	cfg.Cmd = in.commandLine(c.ShellDependantCmdLine)
	//lint:ignore SA1019 Docker on Windows still reads it
	cfg.ArgsEscaped = true
	return in.record(fmt.Sprintf("CMD %q", cfg.Cmd), false)
}

// entrypoint also forgets a CMD of the base, which was meant for another entrypoint.
func (in *instruction) entrypoint(c *instructions.EntrypointCommand) error {
	in.checkOnce(&in.s.seen.entrypoint)
	cfg := &in.s.image.Config
	cfg.Entrypoint = in.commandLine(c.ShellDependantCmdLine)
	if in.s.seen.cmd == nil {
		cfg.Cmd = nil
	}
	return in.record(fmt.Sprintf("ENTRYPOINT %q", cfg.Entrypoint), false)
}

// commandLine is the command of CMD or ENTRYPOINT with its shell.
func (in *instruction) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	if len(in.s.image.Config.Shell) == 0 {
		in.warn(&linter.RuleJSONArgsRecommended, linter.RuleJSONArgsRecommended.Format(in.Name()))
	}
	return append(shellOf(&in.s.image), strings.Join(c.CmdLine, " "))
}

func (in *instruction) healthcheck(c *instructions.HealthCheckCommand) error {
	in.checkOnce(&in.s.seen.healthcheck)
	h := *c.Health
	in.s.image.Config.Healthcheck = &h
	return in.record(fmt.Sprintf("HEALTHCHECK %+v", h), false)
}

func (in *instruction) user(c *instructions.UserCommand) error {
	in.s.image.Config.User = c.User
	in.s.state = in.s.state.User(c.User)
	return in.record("USER "+c.User, false)
}

func (in *instruction) volume(c *instructions.VolumeCommand) error {
	volumes := &in.s.image.Config.Volumes
	if *volumes == nil {
		*volumes = map[string]struct{}{}
	}
	for _, v := range c.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		(*volumes)[v] = struct{}{}
	}
	return in.record(fmt.Sprintf("VOLUME %v", c.Volumes), false)
}

func (in *instruction) stopSignal(c *instructions.StopSignalCommand) error {
	if _, err := signal.ParseSignal(c.Signal); err != nil {
		return err
	}
	in.s.image.Config.StopSignal = c.Signal
	return in.record("STOPSIGNAL "+c.Signal, false)
}

func (in *instruction) shell(c *instructions.ShellCommand) error {
	in.s.image.Config.Shell = c.Shell
	return in.record(fmt.Sprintf("SHELL %v", c.Shell), false)
}
