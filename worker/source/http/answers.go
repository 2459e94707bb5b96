package http

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxAnswers bounds how many are kept; the least recently used go first.
const maxAnswers = 1000

const answerExt = ".json"

// answer is what a server said last of a URL.
type answer struct {
	fetched
	ETag string `json:",omitempty"`
	Used time.Time
}

// answers keeps answers in a file each. What cannot be read is not known.
type answers struct {
	dir string

	mu sync.Mutex // guards m
	m  map[string]answer
}

func openAnswers(dir string) (*answers, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	a := &answers{dir: dir, m: map[string]answer{}}
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), answerExt)
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		var v answer
		if !ok || err != nil || json.Unmarshal(b, &v) != nil || v.Digest.Validate() != nil {
			os.Remove(filepath.Join(dir, f.Name()))
			continue
		}
		a.m[id] = v
	}
	return a, nil
}

// get returns an answer that a server can be asked about, or whose tree is
// known.
func (a *answers) get(id string) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.m[id]
	return v, ok
}

func (a *answers) put(id string, v answer) error {
	v.Used = time.Now()
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(a.dir, "new-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(a.dir, id+answerExt))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return err
	}
	a.mu.Lock()
	a.m[id] = v
	over := a.overLocked()
	a.mu.Unlock()
	for _, id := range over {
		os.Remove(filepath.Join(a.dir, id+answerExt))
	}
	return nil
}

// overLocked drops what is too much and returns it.
func (a *answers) overLocked() []string {
	if len(a.m) <= maxAnswers {
		return nil
	}
	var ids []string
	for id := range a.m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(x, y string) int { return a.m[y].Used.Compare(a.m[x].Used) })
	over := ids[maxAnswers*9/10:]
	for _, id := range over {
		delete(a.m, id)
	}
	return over
}
