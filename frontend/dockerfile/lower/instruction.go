package lower

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// lowerStage makes state and image of a stage whose base is known.
func (l *lowering) lowerStage(ctx context.Context, s *stage) error {
	s.inherit()
	if err := l.expand.spend(s.weight()); err != nil {
		return at(err, s.def.Location)
	}
	if err := l.begin(ctx, s); err != nil {
		return at(err, s.def.Location)
	}
	for _, st := range s.steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		in := &instruction{lowering: l, s: s, step: st, lint: l.lint.WithMergedConfigFromComments(st.Comments())}
		if err := in.lower(); err != nil {
			return at(err, st.Location())
		}
	}
	s.scanStage = l.scanWanted(s, scanStageArg)
	s.scanContext = l.scanWanted(s, scanContextArg)
	s.ready = true
	return nil
}

// begin gives the state of a stage what the config of its base says.
func (l *lowering) begin(ctx context.Context, s *stage) error {
	c := &s.image.Config
	hasPath := false
	for _, kv := range c.Env {
		hasPath = hasPath || strings.HasPrefix(kv, "PATH=")
	}
	if !hasPath && s.platform.OS != windows {
		c.Env = append(c.Env, "PATH="+unixPath)
	}
	if s.env == nil {
		if err := s.readState(ctx); err != nil {
			return err
		}
	}
	for _, kv := range c.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.setEnv(k, v)
	}
	if l.o.Run.Hostname != "" {
		s.state = s.state.Hostname(l.o.Run.Hostname)
	}
	if c.WorkingDir != "" {
		wd, err := cleanPath("/", c.WorkingDir, s.platform.OS, false)
		if err != nil {
			return fmt.Errorf("working directory of base: %w", err)
		}
		s.setDir(wd)
	}
	if c.User != "" {
		s.state = s.state.User(c.User)
	}
	s.state = s.state.Network(l.o.Run.Network)
	return nil
}

// readState learns the environment and working directory that a state brings along, as those of contexts may.
func (s *stage) readState(ctx context.Context) error {
	env, err := s.state.Env(ctx)
	if err != nil {
		return fmt.Errorf("read environment of base: %w", err)
	}
	s.env = newVars()
	for _, k := range env.Keys() {
		v, _ := env.Get(k)
		s.env.set(k, v)
	}
	if s.dir, err = s.state.GetDir(ctx); err != nil {
		return fmt.Errorf("read working directory of base: %w", err)
	}
	return nil
}

func (s *stage) setEnv(key, value string) {
	key, value = strings.ToValidUTF8(key, "\uFFFD"), strings.ToValidUTF8(value, "\uFFFD")
	s.env.set(key, value)
	s.state = s.state.AddEnv(key, value)
}

// setDir takes an absolute path with forward slashes.
func (s *stage) setDir(dir string) {
	s.dir = dir
	s.state = s.state.Dir(dir)
}

// scanWanted reports whether an argument for scanning holds for a stage: a boolean, or a list of stages.
func (l *lowering) scanWanted(s *stage, key string) bool {
	value, _ := l.args.Get(key)
	for _, a := range s.args {
		if a.Key == key && a.Value != nil {
			value = *a.Value
		}
	}
	if b, err := strconv.ParseBool(value); err == nil {
		return b
	}
	for name := range strings.SplitSeq(value, ",") {
		if value != "" && name == s.label {
			return true
		}
	}
	return false
}

// instruction is one step of a stage while it is lowered.
type instruction struct {
	*lowering
	step
	s    *stage
	lint *linter.Linter // with what the comment above the instruction says
}

// lower expands the words of the instruction and then does what it says.
func (in *instruction) lower() error {
	if err := in.checkEncoding(); err != nil {
		return err
	}
	if err := in.expandWords(); err != nil {
		return err
	}
	if err := in.expand.spend(itemCost); err != nil {
		return err
	}
	in.s.inTrigger = in.trigger
	switch c := in.Command.(type) {
	case *instructions.AddCommand:
		return in.add(c)
	case *instructions.ArgCommand:
		return in.arg(c)
	case *instructions.CmdCommand:
		return in.cmd(c)
	case *instructions.CopyCommand:
		return in.copy(c)
	case *instructions.EntrypointCommand:
		return in.entrypoint(c)
	case *instructions.EnvCommand:
		return in.env(c)
	case *instructions.ExposeCommand:
		return in.expose(c)
	case *instructions.HealthCheckCommand:
		return in.healthcheck(c)
	case *instructions.LabelCommand:
		return in.label(c)
	case *instructions.MaintainerCommand:
		return in.maintainer(c)
	case *instructions.OnbuildCommand:
		in.s.image.Config.OnBuild = append(in.s.image.Config.OnBuild, c.Expression)
		return nil
	case *instructions.RunCommand:
		return in.run(c)
	case *instructions.ShellCommand:
		return in.shell(c)
	case *instructions.StopSignalCommand:
		return in.stopSignal(c)
	case *instructions.UserCommand:
		return in.user(c)
	case *instructions.VolumeCommand:
		return in.volume(c)
	case *instructions.WorkdirCommand:
		return in.workdir(c)
	default:
		return fmt.Errorf("instruction %s cannot be lowered", in.Name())
	}
}

// checkEncoding refuses text that LLB cannot hold. Elsewhere than in commands and paths it is only replaced, since old files have
// names of people in other encodings.
func (in *instruction) checkEncoding() error {
	_, isUser := in.Command.(*instructions.UserCommand)
	if code, ok := in.Command.(fmt.Stringer); ok && (isUser || makesLayer(in.Command)) {
		return checkUTF8(code.String())
	}
	return nil
}

func checkUTF8(s string) error {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return fmt.Errorf("byte %#x after %s is not UTF-8", s[i], abridged(s[max(0, i-20):i]))
			}
		}
	}
	return nil
}

// expandWords replaces variables wherever the instruction allows them. ARG does it on its own, since the default of an argument
// that is given does not matter.
func (in *instruction) expandWords() error {
	if _, ok := in.Command.(*instructions.ArgCommand); ok {
		return nil
	}
	if c, ok := in.Command.(instructions.SupportsSingleWordExpansion); ok {
		if err := c.Expand(in.word); err != nil {
			return err
		}
	}
	if c, ok := in.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		return c.ExpandRaw(func(s string) (string, error) {
			r, err := in.expand.text(s, in.s.env)
			in.checkUndefined(r.Unmatched)
			return r.Result, err
		})
	}
	return nil
}

func (in *instruction) word(s string) (string, error) {
	r, err := in.expand.word(s, in.s.env)
	in.checkUndefined(r.Unmatched)
	return r.Result, err
}

func (in *instruction) record(text string, layer bool) error {
	return in.lowering.record(in.s, text, layer)
}
