package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLibrariesLogIntoTheDaemonsLog(t *testing.T) {
	var b bytes.Buffer
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.TraceLevel)
	l.AddHook(libraries{slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	l.WithError(errors.New("why")).Warn("something is odd")
	l.WithError(errors.New("no")).Warn("failed check for fsverity support")
	l.Trace("detail")
	got := b.String()
	if !strings.Contains(got, `level=WARN msg="something is odd" error=why`) || !strings.Contains(got, "level=DEBUG msg=detail") {
		t.Errorf("logged %s", got)
	}
	if strings.Contains(got, "fsverity") {
		t.Errorf("the want of fsverity is no matter: %s", got)
	}
}
