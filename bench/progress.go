package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// readProgress tells from buildctl's rawjson what was run. A step that is named
// more than once counts by what was said last.
func readProgress(b []byte) (outcome, error) {
	type vertex struct {
		Digest    string
		Name      string
		Cached    bool
		Completed *time.Time
		Error     string
	}
	last := map[string]vertex{}
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		var s struct{ Vertexes []vertex }
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return outcome{}, fmt.Errorf("read progress: %w", err)
		}
		for _, v := range s.Vertexes {
			last[v.Digest] = v
		}
	}
	var o outcome
	for _, v := range last {
		switch _, run, _ := strings.Cut(v.Name, "] "); {
		case v.Error != "":
			return o, fmt.Errorf("step %s: %s", v.Name, v.Error)
		case !strings.HasPrefix(run, "RUN ") || v.Completed == nil:
		case v.Cached:
			o.cached++
		default:
			o.ran++
		}
	}
	return o, nil
}
