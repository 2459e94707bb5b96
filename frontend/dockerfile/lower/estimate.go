package lower

import (
	"unicode"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// estimator finds out how long a word can get at most before it is expanded, by reading it as BuildKit's shell.Lex does. It reads on
// over mistakes that the lexer will report.
type estimator struct {
	rest   []rune
	env    shell.EnvGetter
	escape rune
	quotes bool  // quotes quote
	work   int64 // steps of matching patterns
}

// huge stands for any length that is out of the question; it can be added and multiplied without overflow.
const huge = int64(1) << 30

func capped(n int64) int64 { return min(n, huge) }

func (e *estimator) peek() rune {
	if len(e.rest) == 0 {
		return 0
	}
	return e.rest[0]
}

func (e *estimator) next() rune {
	r := e.peek()
	if len(e.rest) > 0 {
		e.rest = e.rest[1:]
	}
	return r
}

// until returns the length of what comes before stop, which is -1 for the end of the word, and skips it.
func (e *estimator) until(stop rune) int64 {
	var n int64
	for len(e.rest) > 0 {
		r := e.next()
		switch {
		case r == stop:
			return n
		case r == e.escape:
			n += 1 + int64(utf8.RuneLen(e.next()))
		case r == '$':
			n += e.variable()
		case r == '\'' && e.quotes:
			n += e.singleQuoted()
		case r == '"' && e.quotes:
			n += e.doubleQuoted()
		default:
			n += int64(utf8.RuneLen(r))
		}
		n = capped(n)
	}
	return n
}

func (e *estimator) singleQuoted() int64 {
	n := int64(2)
	for len(e.rest) > 0 {
		r := e.next()
		if r == '\'' {
			return n
		}
		n += int64(utf8.RuneLen(r))
		if r == e.escape {
			n++ // kept for a pattern
		}
	}
	return n
}

func (e *estimator) doubleQuoted() int64 {
	n := int64(2)
	for len(e.rest) > 0 {
		switch r := e.next(); r {
		case '"':
			return n
		case '$':
			n += e.variable()
		case e.escape:
			if p := e.peek(); p == '"' || p == '$' || p == e.escape {
				e.next()
			}
			n += 2
		default:
			n += int64(utf8.RuneLen(r))
		}
		n = capped(n)
	}
	return n
}

// variable reads what follows a dollar sign.
func (e *estimator) variable() int64 {
	if e.peek() != '{' {
		name := e.name()
		return e.value(name) + int64(len(name)) + 1
	}
	e.next()
	name := e.name()
	value := e.value(name)
	written := value + int64(len(name)) + 8
	op := e.next()
	if op == ':' {
		op = e.next()
	}
	switch op {
	case '+', '-', '?':
		return capped(written + e.until('}'))
	case '#', '%':
		pattern := e.until('}')
		e.work = capped(e.work + value*(pattern+1))
		return capped(written + pattern)
	case '/':
		if e.peek() == '/' {
			e.next()
		}
		pattern := e.until('/')
		replacement := e.until('}')
		e.work = capped(e.work + value*(pattern+1))
		return capped(written + pattern + (value+1)*(replacement+1)) // an empty pattern matches around every byte
	default:
		return written
	}
}

func (e *estimator) name() string {
	var name []rune
	for {
		r := e.peek()
		switch {
		case len(name) == 0 && unicode.IsDigit(r):
			for unicode.IsDigit(e.peek()) {
				name = append(name, e.next())
			}
			return string(name)
		case len(name) == 0 && (r == '@' || r == '*' || r == '#' || r == '?' || r == '-' || r == '$' || r == '!'):
			return string(e.next())
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			name = append(name, e.next())
		default:
			return string(name)
		}
	}
}

func (e *estimator) value(name string) int64 {
	v, _ := e.env.Get(name)
	return int64(len(v))
}
