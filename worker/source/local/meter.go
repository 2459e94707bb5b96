package local

import (
	"sync"
	"time"

	"github.com/buildd/buildd/solver"
)

const meterInterval = 100 * time.Millisecond

// meter reports received bytes every now and then.
type meter struct {
	report func(solver.Status)

	mu   sync.Mutex // guards the rest
	s    solver.Status
	last time.Time
}

func newMeter(id string, report func(solver.Status)) *meter {
	m := &meter{report: report, s: solver.Status{ID: id, Started: time.Now()}}
	m.add(0)
	return m
}

func (m *meter) add(n int) {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	m.s.Current += int64(n)
	s, due := m.s, time.Since(m.last) >= meterInterval
	if due {
		m.last = time.Now()
	}
	m.mu.Unlock()
	if due {
		m.report(s)
	}
}

func (m *meter) done() {
	if m.report == nil {
		return
	}
	m.mu.Lock()
	m.s.Completed = time.Now()
	s := m.s
	m.mu.Unlock()
	m.report(s)
}

// reused is the bytes of the files that did not have to be sent. They count as
// transferred: who watches wants to know how large the context is, as with a
// builder that sends everything.
func (t *transfer) reused() int {
	n := 0
	for _, it := range t.list {
		if it.from != "" {
			n += int(it.entry.Size)
		}
	}
	return n
}
