package lower

import (
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

const (
	scanContextArg = "BUILDKIT_SBOM_SCAN_CONTEXT"
	scanStageArg   = "BUILDKIT_SBOM_SCAN_STAGE"
)

// isScanArg reports whether an argument is for the builder alone and no variable of the steps.
func isScanArg(key string) bool { return key == scanContextArg || key == scanStageArg }

func (in *instruction) env(c *instructions.EnvCommand) error {
	var text strings.Builder
	text.WriteString("ENV")
	for _, kv := range c.Env {
		in.checkKeyValue(kv.NoDelim)
		in.checkSecretKey("ENV", kv.Key)
		text.WriteString(" " + kv.String())
		if err := in.setEnv(kv.Key, kv.Value); err != nil {
			return err
		}
		in.s.image.Config.Env = setConfigEnv(in.s.image.Config.Env, kv.Key, kv.Value)
	}
	return in.record(text.String(), false)
}

// setEnv counts: the state of a stage keeps each setting, and whoever reads it recurses into them.
func (in *instruction) setEnv(key, value string) error {
	in.s.setEnv(key, value)
	return in.expand.spend(itemCost)
}

// arg declares build arguments: from there on they are variables of the stage and of those based on it, and no part of the image.
func (in *instruction) arg(c *instructions.ArgCommand) error {
	texts := make([]string, 0, len(c.Args))
	for _, a := range c.Args {
		in.checkSecretKey("ARG", a.Key)
		info := argInfo{definition: a, location: in.Location()}
		value, own, err := in.argValue(a)
		if err != nil {
			return err
		}
		a.Value = value
		text := a.Key
		if value != nil {
			if !isScanArg(a.Key) {
				if err := in.setEnv(a.Key, *value); err != nil {
					return err
				}
			}
			info.value = *value
			text += "=" + *value
		}
		if own {
			in.s.outline.args[a.Key] = info
		}
		in.s.outline.used[a.Key] = struct{}{}
		in.s.args = append(in.s.args, a)
		texts = append(texts, text)
	}
	return in.record("ARG "+strings.Join(texts, " "), false)
}

// argValue returns what an argument is: what was given, else the default, else the global argument of that name, else nil. Own
// says that it is not the global one.
func (in *instruction) argValue(a instructions.KeyValuePairOptional) (value *string, own bool, err error) {
	if v, ok := in.o.BuildArgs[a.Key]; ok {
		return &v, true, nil
	}
	if a.Value != nil {
		v, err := in.word(*a.Value)
		return &v, true, err
	}
	if v, ok := in.args.Get(a.Key); ok {
		return &v, false, nil
	}
	return nil, true, nil
}
