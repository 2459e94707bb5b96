package op

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// LogLimits bound what a step's output streams pass on; -1 is no bound.
type LogLimits struct {
	Size  int // bytes
	Speed int // bytes per second, averaged since the step began
}

// headSize is what is kept of the beginning of a stream.
const headSize = 512

// tailSize is what is kept of a clipped stream to be shown if the step fails.
const tailSize = 256 << 10

// defaultLogLimits are BuildKit's, with its variables.
func defaultLogLimits() LogLimits {
	l := LogLimits{Size: 2 << 20, Speed: 200 << 10}
	if n, err := strconv.ParseInt(os.Getenv("BUILDKIT_STEP_LOG_MAX_SIZE"), 10, 32); err == nil {
		l.Size = int(n)
	}
	if n, err := strconv.ParseInt(os.Getenv("BUILDKIT_STEP_LOG_MAX_SPEED"), 10, 32); err == nil {
		l.Speed = int(n)
	}
	return l
}

// logStream passes on what a step writes to one stream, within limits. From the
// first byte that is left out on it keeps the last of what comes.
type logStream struct {
	stream int
	limits LogLimits
	began  time.Time
	pass   func(stream int, p []byte)

	mu       sync.Mutex // guards all below
	size     int
	head     []byte // the first that came
	clipping bool
	tail     []byte // a ring of tailSize once full
	at       int    // where the ring is written next
}

// Write implements io.Writer. It never fails: a step does not end for its log.
func (s *logStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	if room := headSize - len(s.head); room > 0 {
		s.head = append(s.head, p[:min(room, n)]...)
	}
	take, limit := s.allowedLocked(n)
	s.size += n
	if s.tail != nil || take < n {
		s.keepLocked(p)
	}
	out := append([]byte(nil), p[:take]...)
	switch {
	case take == n:
		s.clipping = false
	case !s.clipping:
		s.clipping = true
		out = fmt.Appendf(out, "\n[output clipped, log limit %s reached]\n", limit)
	}
	if len(out) > 0 {
		s.pass(s.stream, out)
	}
	return n, nil
}

// Close implements io.Closer.
func (s *logStream) Close() error { return nil }

// allowedLocked returns how many of n more bytes may pass, and the limit that
// stops the rest.
func (s *logStream) allowedLocked(n int) (int, string) {
	most, why := s.limits.Size, bytesText(s.limits.Size)
	if s.limits.Speed >= 0 {
		seconds := int(time.Since(s.began)/time.Second) + 1
		if speed := seconds * s.limits.Speed; most < 0 || speed < most {
			most, why = speed, bytesText(s.limits.Speed)+"/s"
		}
	}
	if most < 0 {
		return n, ""
	}
	return min(n, max(0, most-s.size)), why
}

func bytesText(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	default:
		return fmt.Sprintf("%dB", n)
	}
}

func (s *logStream) keepLocked(p []byte) {
	if s.tail == nil {
		s.tail = make([]byte, 0, 4096)
	}
	p = p[max(0, len(p)-tailSize):]
	if room := tailSize - len(s.tail); room > 0 {
		n := min(room, len(p))
		s.tail = append(s.tail, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(s.tail[s.at:], p)
		s.at = (s.at + n) % tailSize
		p = p[n:]
	}
}

// beginning returns the first that was written.
func (s *logStream) beginning() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.head)
}

// flush passes on what was kept of a clipped stream, for a step that failed.
func (s *logStream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tail == nil {
		return
	}
	out := append(append([]byte(nil), s.tail[s.at:]...), s.tail[:s.at]...)
	s.tail, s.at = nil, 0
	s.pass(s.stream, out)
}
