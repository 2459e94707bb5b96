package lower

import (
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// record adds an instruction to the history of the image. Tools that show the history tell by the suffix that the shell is part
// of the command.
// https://github.com/opencontainers/image-spec/blob/main/config.md#properties, "history"
func (l *lowering) record(s *stage, text string, layer bool) error {
	s.image.History = append(s.image.History, ocispecs.History{
		Created:    l.epoch,
		CreatedBy:  text,
		Comment:    historyComment,
		EmptyLayer: !layer,
	})
	return l.expand.spend(len(text) + itemCost)
}

const builtSuffix = " # buildkit"

// runRecord is the history of a RUN: how many build arguments it saw, these, and the command.
func runRecord(cmd []string, args []instructions.KeyValuePairOptional, env shell.EnvGetter) string {
	values := newVars()
	for _, a := range args {
		v, ok := env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		values.set(a.Key, v)
	}
	var words []string
	if n := len(values.keys); n > 0 {
		words = append(words, "|"+strconv.Itoa(n))
		for _, k := range values.keys {
			words = append(words, k+"="+values.values[k])
		}
	}
	return "RUN " + strings.Join(append(words, cmd...), " ") + builtSuffix
}
