package main

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/buildd/buildd/cmd/buildd/config"
	"github.com/sirupsen/logrus"
)

func newLog(c config.Config) *slog.Logger {
	var level slog.Level
	switch c.Log.Level {
	case "error":
		level = slog.LevelError
	case "warn":
		level = slog.LevelWarn
	case "debug", "trace":
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(os.Stderr, o)
	if c.Log.Format == "json" {
		h = slog.NewJSONHandler(os.Stderr, o)
	}
	log := slog.New(h)
	slog.SetDefault(log)
	logrus.SetOutput(io.Discard)
	logrus.AddHook(libraries{log})
	if level > slog.LevelDebug {
		logrus.SetLevel(logrus.ErrorLevel) // warnings of libraries are for those who write programs
	}
	return log
}

// libraries takes what containerd's packages log into the daemon's own log.
type libraries struct{ log *slog.Logger }

func (libraries) Levels() []logrus.Level { return logrus.AllLevels }

func (l libraries) Fire(e *logrus.Entry) error {
	if strings.Contains(e.Message, "fsverity") { // a file system without it is as good
		return nil
	}
	level := slog.LevelDebug
	switch e.Level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel:
		level = slog.LevelInfo
	}
	args := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	l.log.Log(e.Context, level, e.Message, args...)
	return nil
}
