package explain

import (
	"fmt"
	"strings"
	"unicode/utf8"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
)

const (
	// maxShown bounds a value in a sentence, maxLine a sentence in a line of
	// progress, in characters.
	maxShown = 100
	maxLine  = 200
	// context is how much is shown before what differs in long values.
	lead = 24
	// summaryFiles is how many files a sentence names.
	summaryFiles = 3
)

// shown returns two values as they are shown beside each other: of ones that are
// longer than n the part that differs.
func shown(old, new string, n int) (string, string) {
	if utf8.RuneCountInString(old) <= n && utf8.RuneCountInString(new) <= n {
		return old, new
	}
	same := 0
	for same < len(old) && same < len(new) && old[same] == new[same] {
		same++
	}
	from := max(0, same-lead)
	return window(old, from, n), window(new, from, n)
}

// window is what is shown of a long value from an offset on.
func window(s string, from, n int) string {
	if from >= len(s) {
		from = max(0, len(s)-lead)
	}
	out := cut(strings.ToValidUTF8(s[from:], ""), n)
	if from > 0 {
		out = "..." + out
	}
	return out
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n-3]) + "..."
}

// change says that a named value has changed.
func change(what, old, new string) string {
	old, new = shown(old, new, maxShown)
	return fmt.Sprintf("%s changed: %q -> %q", what, old, new)
}

// short is a digest as people compare it.
func short(digest string) string {
	algorithm, hex, ok := strings.Cut(digest, ":")
	if !ok {
		algorithm, hex = "", digest
	}
	if len(hex) < 40 || strings.Trim(hex, "0123456789abcdef") != "" {
		return digest
	}
	if algorithm != "" {
		return algorithm + ":" + hex[:12]
	}
	return hex[:12]
}

// fileText says what became of a file.
func fileText(f *explainv1.File) string {
	switch f.Change {
	case explainv1.Change_CHANGE_ADDED:
		return f.Path + " added"
	case explainv1.Change_CHANGE_REMOVED:
		return f.Path + " removed"
	default:
		return fmt.Sprintf("%s changed (%s)", f.Path, strings.Join(f.How, ", "))
	}
}

// filesText sums files up.
func filesText(files []*explainv1.File, more int32) string {
	var out []string
	for _, f := range files[:min(len(files), summaryFiles)] {
		out = append(out, fileText(f))
	}
	if n := len(files) - len(out) + int(more); n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(out, ", "), n)
	}
	return strings.Join(out, ", ")
}

// why sums causes up in one line.
func why(causes []*explainv1.Cause) string {
	var out []string
	for _, c := range causes {
		out = append(out, c.Text)
	}
	return strings.Join(out, "; ")
}

// oneLine makes a text fit a line.
func oneLine(s string) string {
	return cut(strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s), maxLine)
}

// shortName is enough of a step's name to find it: "[build 2/4] COPY".
func shortName(name string) string {
	name = oneLine(name)
	if in, rest, ok := strings.Cut(name, "] "); ok && strings.HasPrefix(in, "[") && !internal(name) {
		word, _, _ := strings.Cut(rest, " ")
		return in + "] " + word
	}
	return cut(name, maxShown)
}
