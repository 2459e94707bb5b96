package why

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
)

// print shows a build for people: the steps that ran with their causes, and how
// many others there are. Steps that were asked for are shown whatever they are.
func (b Build) print(w io.Writer, asked bool) error {
	var out strings.Builder
	ended := "ended"
	if b.Error != "" {
		ended = "failed"
	}
	fmt.Fprintf(&out, "build %s, %s %s\n", b.Build, ended, b.Completed.Local().Format(time.DateTime))
	var cached, cutOff int
	ran := 0
	for _, s := range b.Steps {
		switch {
		case !asked && s.Internal:
		case !asked && s.State == "cached":
			cached++
			if s.CutOff {
				cutOff++
			}
		default:
			ran++
			s.print(&out)
		}
	}
	if !asked {
		out.WriteString("\n" + summary(ran, cached, cutOff))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func summary(ran, cached, cutOff int) string {
	if ran+cached == 0 {
		return "no step was needed\n"
	}
	if ran == 0 {
		return fmt.Sprintf("nothing ran: %s cached\n", steps(cached))
	}
	text := fmt.Sprintf("%s ran, %d cached", steps(ran), cached)
	if cutOff > 0 {
		text += fmt.Sprintf(" (%d of them although a step that it reads ran again: it gave the same files)", cutOff)
	}
	return text + "\n"
}

func steps(n int) string {
	if n == 1 {
		return "1 step"
	}
	return fmt.Sprintf("%d steps", n)
}

func (s Step) print(w io.Writer) {
	fmt.Fprintf(w, "\n#%d %s", s.Number, printable(firstLine(s.Name)))
	for _, l := range s.Locations {
		fmt.Fprintf(w, "  %s", printable(l.String()))
	}
	if s.State != "ran" {
		fmt.Fprintf(w, "  (%s)", s.State)
	}
	fmt.Fprintln(w)
	if s.CutOff {
		fmt.Fprintln(w, "   a step that it reads ran again and gave the same files")
	}
	for _, c := range s.Causes {
		c.print(w)
	}
}

// print lists the files of a cause if there are several.
func (c Cause) print(w io.Writer) {
	if len(c.Files) < 2 {
		fmt.Fprintf(w, "   %s\n", printable(c.Text))
		return
	}
	indent := "   "
	if c.Step != "" {
		fmt.Fprintf(w, "   %s gave other files:\n", printable(firstLine(c.Step)))
		indent += "  "
	}
	for _, f := range c.Files {
		how := ""
		if len(f.How) > 0 {
			how = " (" + strings.Join(f.How, ", ") + ")"
		}
		fmt.Fprintf(w, "%s%s %s%s\n", indent, printable(f.Path), f.Change, printable(how))
	}
	if c.More > 0 {
		fmt.Fprintf(w, "%sand %d more\n", indent, c.More)
	}
}

func (l Location) String() string {
	if l.LastLine > l.FirstLine {
		return fmt.Sprintf("%s:%d-%d", l.File, l.FirstLine, l.LastLine)
	}
	return fmt.Sprintf("%s:%d", l.File, l.FirstLine)
}

func firstLine(s string) string {
	line, _, more := strings.Cut(s, "\n")
	if more {
		line += " ..."
	}
	return line
}

// printable shows what could move a terminal's cursor as what it is: names of
// files are anybody's.
func printable(s string) string {
	if !slices.ContainsFunc([]rune(s), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := fmt.Sprintf("%+q", r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
