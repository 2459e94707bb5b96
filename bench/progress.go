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

// vertex is what BuildKit's protocol says about a step.
type vertex struct {
	Digest    string
	Name      string
	Cached    bool
	Completed *time.Time
	Error     string
}

// progress is what was said last about each step of a build.
type progress struct {
	last map[string]vertex
}

func (p *progress) add(v vertex) {
	if p.last == nil {
		p.last = map[string]vertex{}
	}
	p.last[v.Digest] = v
}

func (p *progress) outcome() (outcome, error) {
	var o outcome
	for _, v := range p.last {
		if v.Error != "" {
			return o, fmt.Errorf("step %s: %s", v.Name, v.Error)
		}
		if _, step, ok := strings.Cut(v.Name, "] "); ok && v.Completed != nil {
			o.add(step, v.Cached)
		}
	}
	return o, nil
}

// readProgress tells from buildctl's rawjson what was run.
func readProgress(b []byte) (outcome, error) {
	var p progress
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		var s struct{ Vertexes []vertex }
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			return p.outcome()
		} else if err != nil {
			return outcome{}, fmt.Errorf("read progress: %w", err)
		}
		for _, v := range s.Vertexes {
			p.add(v)
		}
	}
}
