// Package gather makes few large messages of many small writes. A message of gRPC
// costs both sides the same whether it has ten bytes or a hundred thousand.
package gather

import (
	"io"
	"sync"
)

// Limit is how many bytes a Writer gathers at most, unless they come at once: so
// many and their header fit the buffer of 256 KiB that gRPC takes for a message.
const Limit = 240 << 10

// Writer sends what is written to it. All that is written while a message is on
// its way goes with the next, so that nothing ever waits for company.
type Writer struct {
	send func([]byte) error
	done chan struct{}

	mu     sync.Mutex // guards what follows
	change *sync.Cond // of any of it
	buf    []byte
	closed bool
	err    error // of send; final
}

// NewWriter returns a Writer that hands its messages to send, one at a time. send
// must not keep the memory of a message; a gRPC stream's Send does not unless the
// connection has a stats handler that looks at messages later. It must be closed.
func NewWriter(send func([]byte) error) *Writer {
	w := &Writer{send: send, done: make(chan struct{})}
	w.change = sync.NewCond(&w.mu)
	go w.run()
	return w
}

func (w *Writer) run() {
	defer close(w.done)
	var spare []byte // the buffer that is not being written to
	for {
		w.mu.Lock()
		for len(w.buf) == 0 && !w.closed {
			w.change.Wait()
		}
		data := w.buf
		if len(data) == 0 {
			w.mu.Unlock()
			return
		}
		w.buf = spare[:0]
		w.mu.Unlock()
		w.change.Broadcast()
		if err := w.send(data); err != nil {
			w.mu.Lock()
			w.err, w.buf = err, nil
			w.mu.Unlock()
			w.change.Broadcast()
			return
		}
		spare = data
	}
}

// Write returns before b is sent, unless too much waits. The error may be that
// of an earlier Write; after Close it is io.ErrClosedPipe.
func (w *Writer) Write(b []byte) (int, error) {
	err := w.Append(len(b), func(buf []byte) ([]byte, error) { return append(buf, b...), nil })
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// Append is a Write of at most size bytes that fill appends. If fill fails nothing is
// written.
func (w *Writer) Append(size int, fill func([]byte) ([]byte, error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > 0 && len(w.buf)+size > Limit && w.err == nil && !w.closed {
		w.change.Wait()
	}
	switch {
	case w.err != nil:
		return w.err
	case w.closed:
		return io.ErrClosedPipe
	}
	buf, err := fill(w.buf)
	if err != nil {
		return err
	}
	if len(w.buf) == 0 {
		w.change.Broadcast()
	}
	w.buf = buf
	return nil
}

// Close waits until all is sent and returns the error that stopped it.
func (w *Writer) Close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.change.Broadcast()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
