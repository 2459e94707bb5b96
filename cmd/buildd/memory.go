package main

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Pauses after a build before memory is given back: a moment, in which the next
// build of a busy daemon starts, again when the build's record is whole, and when
// what is kept of a build without a record is gone.
var idlePauses = []time.Duration{2 * time.Second, 4 * time.Second, 20 * time.Second}

// idleMemory gives memory back to the system when the daemon is idle. The Go
// runtime keeps what builds needed at their peak for minutes, which on a machine
// that mostly waits for builds is better used by others.
type idleMemory struct {
	mu     sync.Mutex // guards timers
	timers []*time.Timer
}

// ended says that a build has ended.
func (m *idleMemory) ended() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timers == nil {
		for _, d := range idlePauses {
			m.timers = append(m.timers, time.AfterFunc(d, giveBack))
		}
		return
	}
	for i, t := range m.timers {
		t.Reset(idlePauses[i])
	}
}

// giveBack collects twice: what is in a pool outlives the first collection.
func giveBack() {
	runtime.GC()
	debug.FreeOSMemory()
}
