package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	control "github.com/moby/buildkit/api/services/control"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

// ErrRunning is returned for a build that has no record yet.
var ErrRunning = errors.New("the build has not ended yet")

// AmbiguousError is the error of a prefix that several builds have.
type AmbiguousError struct {
	Prefix string
	Refs   []string // all of them
}

func (e *AmbiguousError) Error() string {
	const show = 5
	refs := strings.Join(e.Refs[:min(show, len(e.Refs))], ", ")
	if n := len(e.Refs) - show; n > 0 {
		refs += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%q begins the references of %d builds: %s", e.Prefix, len(e.Refs), refs)
}

// Latest is the name of the build that began last of those that have ended.
const Latest = "latest"

// Find returns the record of a build: of the one with this reference, or of the
// only one whose reference begins so. "" is Latest. Its errors are ErrNotFound,
// ErrRunning, and *AmbiguousError.
func (s *Store) Find(build string) (*control.BuildHistoryRecord, error) {
	running := s.running(build) // first: they go from there to the records
	recs, err := s.all()
	if err != nil {
		return nil, err
	}
	if build == "" || build == Latest {
		if len(recs) == 0 {
			return nil, fmt.Errorf("%w: no build has ended yet, or none is kept", ErrNotFound)
		}
		return recs[0], nil
	}
	found := slices.DeleteFunc(slices.Clone(recs), func(r *control.BuildHistoryRecord) bool { return !strings.HasPrefix(r.Ref, build) })
	exact := slices.IndexFunc(found, func(r *control.BuildHistoryRecord) bool { return r.Ref == build })
	running = slices.DeleteFunc(running, func(ref string) bool {
		return slices.ContainsFunc(found, func(r *control.BuildHistoryRecord) bool { return r.Ref == ref })
	})
	switch {
	case exact >= 0:
		return found[exact], nil
	case len(found)+len(running) == 0:
		return nil, fmt.Errorf("build %q: %w", build, ErrNotFound)
	case slices.Contains(running, build), len(found) == 0 && len(running) == 1:
		return nil, fmt.Errorf("build %q: %w", build, ErrRunning)
	case len(found)+len(running) > 1:
		e := &AmbiguousError{Prefix: build, Refs: running}
		for _, r := range found {
			e.Refs = append(e.Refs, r.Ref)
		}
		slices.Sort(e.Refs)
		return nil, e
	}
	return found[0], nil
}

// running lists the builds that run and whose references begin so.
func (s *Store) running(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for ref := range s.active {
		if strings.HasPrefix(ref, prefix) {
			out = append(out, ref)
		}
	}
	return out
}

// Steps returns what became of the steps of a build, and why they ran.
func (s *Store) Steps(ref string) ([]*explainv1.Step, error) {
	out := &explainv1.WhyResponse{}
	if e := s.pendingEntry(ref); e != nil {
		err := proto.Unmarshal(e.steps, out)
		return out.Steps, err
	}
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(stepsBucket).Get([]byte(ref))
		if b == nil {
			return fmt.Errorf("why the steps of build %q ran: %w", ref, ErrNotFound)
		}
		if err := proto.Unmarshal(b, out); err != nil {
			return fmt.Errorf("read why the steps of build %s ran: %w", ref, err)
		}
		return nil
	})
	return out.Steps, err
}
