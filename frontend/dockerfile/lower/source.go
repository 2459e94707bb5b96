package lower

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// source is a Dockerfile that has been read but not looked into.
type source struct {
	globals []instructions.ArgCommand // before the first FROM
	stages  []instructions.Stage
	escape  rune
}

// parseTree parses src. The parser has no place for a bad escape directive.
func parseTree(src []byte) (*parser.Result, error) {
	tree, err := parser.Parse(bytes.NewReader(src))
	if err != nil && strings.Contains(err.Error(), "invalid escape token") {
		_, _, where, _ := parser.ParseDirective("escape", src)
		err = parser.SetLocation(err, where)
	}
	return tree, err
}

// parse reads a Dockerfile and reports what is wrong with its form.
func parse(src []byte, lint *linter.Linter) (*source, error) {
	if err := checkText(src); err != nil {
		return nil, err
	}
	tree, err := parseTree(src)
	if err != nil {
		return nil, err
	}
	for _, w := range tree.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	stages, globals, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 {
		return nil, errors.New("dockerfile contains no stages to build: it needs a FROM instruction")
	}
	return &source{globals: globals, stages: stages, escape: tree.EscapeToken}, nil
}

// silent is a linter that says nothing. The parser takes nil for that too, but panics when a comment says "check=".
func silent() *linter.Linter { return linter.New(&linter.Config{}) }

// maxVariables bounds how deep variables can be nested. The lexer recurses into them, and a stack that overflows takes the whole
// program along.
const maxVariables = 100_000

// checkText refuses what cannot be a Dockerfile before the parser makes something of it.
func checkText(src []byte) error {
	if len(bytes.TrimSpace(src)) == 0 {
		return errors.New("the Dockerfile cannot be empty")
	}
	if n := bytes.Count(src, []byte("${")); n > maxVariables {
		return fmt.Errorf("the Dockerfile uses %d variables, more than the limit of %d", n, maxVariables)
	}
	if i := bytes.IndexByte(src, 0); i >= 0 {
		line := 1 + bytes.Count(src[:i], []byte{'\n'})
		here := []parser.Range{{Start: parser.Position{Line: line}, End: parser.Position{Line: line}}}
		return parser.WithLocation(fmt.Errorf("byte %d of the Dockerfile is zero: it must be UTF-8 text, UTF-16 is not understood", i), here)
	}
	return nil
}
