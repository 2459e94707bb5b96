package lower

import (
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	// maxExpanded bounds what a word may expand to. Linux takes no argument or variable above 128 KiB, so nothing useful is
	// lost; without a bound, thirty lines that double a variable are a gigabyte.
	maxExpanded = 1 << 20
	// maxOutput bounds what one Dockerfile may become: the words that it expands to, the history, the environments of its
	// commands, and what its stages inherit from each other.
	maxOutput = 128 << 20
	// itemCost is what each thing counts beside its text: an instruction, a variable that is set, a line of history.
	itemCost = 256
	// maxWork bounds the steps of matching patterns (${a//b/c}) for one word: some tenths of a second.
	maxWork = 1 << 27
)

// expander replaces variables in words of a Dockerfile, within bounds: the daemon reads Dockerfiles of strangers. It is not safe for
// concurrent use.
type expander struct {
	lex         *shell.Lex
	escape      rune
	limit, left int // bytes that may be made in all, and still
}

func newExpander(escape rune, limit int) *expander {
	return &expander{lex: shell.NewLex(escape), escape: escape, limit: limit, left: limit}
}

// word expands s to one word, quotes and escapes removed, and tells which variables it used and which it missed.
func (x *expander) word(s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	return x.run(x.lex, x.escape, s, env)
}

// text expands variables and leaves quotes alone, as in the body of a heredoc. Its escape is always the backslash.
func (x *expander) text(s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	return x.run(lex, '\\', s, env)
}

// list expands s and splits it at blanks.
func (x *expander) list(s string, env shell.EnvGetter) ([]string, error) {
	r, err := x.check(x.lex, x.escape, s, env)
	if err != nil {
		return nil, err
	}
	words, err := x.lex.ProcessWords(r, env)
	if err != nil {
		return nil, unclosed(err)
	}
	for _, w := range words {
		if err := x.spend(len(w)); err != nil {
			return nil, err
		}
	}
	return words, nil
}

// title expands an instruction for people to read; what cannot be expanded stays as it is.
func (x *expander) title(s string, env shell.EnvGetter) string {
	return x.orSame(x.lex, s, env)
}

// command is title for a shell command: quotes and escapes stay, and so do variables that only the shell will know.
func (x *expander) command(s string, env shell.EnvGetter) string {
	lex := shell.NewLex(x.escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	return x.orSame(lex, s, env)
}

func (x *expander) orSame(lex *shell.Lex, s string, env shell.EnvGetter) string {
	r, err := x.run(lex, x.escape, s, env)
	if err != nil {
		return s
	}
	return r.Result
}

func (x *expander) run(lex *shell.Lex, escape rune, s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	if !strings.ContainsAny(s, "$'\"\\`") { // nothing to expand
		return shell.ProcessWordResult{Result: s}, x.spend(len(s))
	}
	s, err := x.check(lex, escape, s, env)
	if err != nil {
		return shell.ProcessWordResult{}, err
	}
	r, err := lex.ProcessWordWithMatches(s, env)
	if err != nil {
		return r, unclosed(err)
	}
	return r, x.spend(len(r.Result))
}

// unclosed says in words what the lexer says where a word ends within ${...}: it
// takes the end for a character.
func unclosed(err error) error {
	if strings.Contains(err.Error(), "unsupported modifier (\uFFFD)") {
		return fmt.Errorf("missing '}': %w", err)
	}
	return err
}

// check refuses a word that expands to too much, and makes it fit for the lexer, which complains on standard error about anything
// but UTF-8.
func (x *expander) check(lex *shell.Lex, escape rune, s string, env shell.EnvGetter) (string, error) {
	s = strings.ToValidUTF8(s, "\uFFFD")
	e := estimator{rest: []rune(s), env: env, escape: escape, quotes: !lex.SkipProcessQuotes}
	size := e.until(-1)
	switch {
	case size > maxExpanded+int64(len(s)):
		return "", fmt.Errorf("expand %s: it may become %d bytes, more than the limit of %d", abridged(s), size, maxExpanded)
	case e.work > maxWork:
		return "", fmt.Errorf("expand %s: matching its patterns takes too long", abridged(s))
	default:
		return s, nil
	}
}

// spend takes n bytes of what a Dockerfile may make.
func (x *expander) spend(n int) error {
	if x.left -= n; x.left < 0 {
		return fmt.Errorf("the Dockerfile becomes more than %d bytes when it is expanded", x.limit)
	}
	return nil
}

// abridged quotes the beginning of a word that may be very long.
func abridged(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%.60q...", s)
	}
	return fmt.Sprintf("%q", s)
}
