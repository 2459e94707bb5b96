package format

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestTemplate(t *testing.T) {
	for text, want := range map[string]string{"{{.A}}": "1<\n", "json": `{"A":"1<"}` + "\n", "{{json .}}": `{"A":"1<"}` + "\n"} {
		tpl, err := parse(t, text)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := tpl.Print(&b, struct{ A string }{"1<"}); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v", text, b.String(), err)
		}
	}
	if tpl, err := parse(t, ""); tpl != nil || err != nil {
		t.Errorf("without the flag: %v, %v", tpl, err)
	}
	if _, err := parse(t, "{{"); err == nil || !strings.Contains(err.Error(), `--format "{{"`) {
		t.Errorf("error: %v", err)
	}
	tpl, err := parse(t, "{{.B}}")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tpl.Print(&b, struct{ A string }{}); err == nil || b.Len() > 0 {
		t.Errorf("a field that there is not: %q, %v", b.String(), err)
	}
}

func parse(t *testing.T, text string) (*Template, error) {
	t.Helper()
	var f Flag
	set := pflag.NewFlagSet("x", pflag.ContinueOnError)
	f.Register(set)
	if err := set.Parse([]string{"--format", text}); err != nil {
		t.Fatal(err)
	}
	return f.Template()
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1.00kB", 1500000: "1.50MB", 1 << 40: "1.10TB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
