package lower

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	// maxExpanded bounds what a word may expand to. Linux takes no argument or variable above 128 KiB, so nothing useful is
	// lost; without a bound, thirty lines that double a variable are a gigabyte.
	maxExpanded = 1 << 20
	// maxMatched bounds the values in a word that matches patterns (${a//b/c}): there the work is a product of lengths.
	maxMatched = 16 << 10
	// maxPattern bounds such a word itself.
	maxPattern = 256 << 10
	// maxOutput bounds all that the words and the history of one Dockerfile expand to.
	maxOutput = 64 << 20
)

// expander replaces variables in words of a Dockerfile, within bounds. It is not safe for concurrent use.
type expander struct {
	lex    *shell.Lex
	escape rune
	left   int // bytes that may still be made
}

func newExpander(escape rune) *expander {
	return &expander{lex: shell.NewLex(escape), escape: escape, left: maxOutput}
}

// word expands s to one word, quotes and escapes removed, and tells which variables it used and which it missed.
func (x *expander) word(s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	return x.run(x.lex, s, env)
}

// text expands variables and leaves quotes alone, as in the body of a heredoc. Its escape is always the backslash.
func (x *expander) text(s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	return x.run(lex, s, env)
}

// list expands s and splits it at blanks.
func (x *expander) list(s string, env shell.EnvGetter) ([]string, error) {
	m := x.meter(s, env)
	if err := m.check(); err != nil {
		return nil, err
	}
	words, err := x.lex.ProcessWords(s, m)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return words, x.spend(len(s) + m.used)
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
	r, err := x.run(lex, s, env)
	if err != nil {
		return s
	}
	return r.Result
}

func (x *expander) run(lex *shell.Lex, s string, env shell.EnvGetter) (shell.ProcessWordResult, error) {
	if x.plain(s) {
		return shell.ProcessWordResult{Result: s}, x.spend(len(s))
	}
	m := x.meter(s, env)
	if err := m.check(); err != nil {
		return shell.ProcessWordResult{}, err
	}
	r, err := lex.ProcessWordWithMatches(s, m)
	if err != nil {
		return r, err
	}
	if err := m.check(); err != nil {
		return shell.ProcessWordResult{}, err
	}
	if len(r.Result) > maxExpanded+len(s) {
		return shell.ProcessWordResult{}, fmt.Errorf("expand %s: %d bytes, more than the limit of %d", abridged(s), len(r.Result), maxExpanded)
	}
	return r, x.spend(len(r.Result))
}

// plain reports whether there is nothing in s to expand.
func (x *expander) plain(s string) bool {
	return !strings.ContainsAny(s, "$'\"\\`")
}

// spend takes n bytes of what a Dockerfile may make.
func (x *expander) spend(n int) error {
	if x.left -= n; x.left < 0 {
		return fmt.Errorf("the Dockerfile expands to more than %d bytes", maxOutput)
	}
	return nil
}

// matches finds ${name/, ${name# and ${name%, whose work is a product of lengths.
var matches = regexp.MustCompile(`(?s)\$\{.?[\pL\pN_]*[/#%]`)

// meter counts the values that one word draws from the environment and gives no more when they are too many.
type meter struct {
	shell.EnvGetter
	word        string
	limit, used int
	long        bool // the word itself is too long to match patterns
}

func (x *expander) meter(s string, env shell.EnvGetter) *meter {
	m := &meter{EnvGetter: env, word: s, limit: maxExpanded}
	if matches.MatchString(s) {
		m.limit, m.long = maxMatched, len(s) > maxPattern
	}
	return m
}

func (m *meter) Get(key string) (string, bool) {
	v, ok := m.EnvGetter.Get(key)
	if m.used += len(v); m.used > m.limit {
		return "", ok
	}
	return v, ok
}

func (m *meter) check() error {
	switch {
	case m.long:
		return fmt.Errorf("expand %s: a word with patterns may have %d bytes, not %d", abridged(m.word), maxPattern, len(m.word))
	case m.used > m.limit:
		return fmt.Errorf("expand %s: the variables in it have %d bytes, more than the limit of %d", abridged(m.word), m.used, m.limit)
	default:
		return nil
	}
}

// abridged quotes the beginning of a word that may be very long.
func abridged(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%.60q...", s)
	}
	return fmt.Sprintf("%q", s)
}
