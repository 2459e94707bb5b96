package filesyncv1

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/tonistiigi/fsutil/types"
)

const (
	// batchSize is how many bytes are gathered while a message is on its way: so
	// many and their header fit the buffer of 256 KiB that gRPC takes for it.
	batchSize = 240 << 10
	// maxPacket bounds one packet: a chunk of a file, or the list entry of one.
	maxPacket = 512 << 10
)

// Writer gathers packets into messages: all that is written while a message is
// being sent goes with the next, so that nothing ever waits for company.
type Writer struct {
	send func(*Packets) error
	done chan struct{}

	mu     sync.Mutex // guards what follows
	change *sync.Cond // of any of it
	buf    []byte
	closed bool
	err    error // of send; final
}

// NewWriter returns a Writer that hands its messages to send, one at a time.
func NewWriter(send func(*Packets) error) *Writer {
	w := &Writer{send: send, done: make(chan struct{})}
	w.change = sync.NewCond(&w.mu)
	go w.run()
	return w
}

func (w *Writer) run() {
	defer close(w.done)
	for {
		w.mu.Lock()
		for len(w.buf) == 0 && !w.closed {
			w.change.Wait()
		}
		if len(w.buf) == 0 {
			w.mu.Unlock()
			return
		}
		data := w.buf
		// Not the same memory, as gRPC may look at a message after it was sent.
		w.buf = make([]byte, 0, min(len(data)*2, batchSize))
		w.mu.Unlock()
		w.change.Broadcast()
		err := w.send(&Packets{Data: data})
		if err != nil {
			w.mu.Lock()
			w.err, w.buf = err, nil
			w.mu.Unlock()
			w.change.Broadcast()
			return
		}
	}
}

// Write sends a packet, which may be used again afterwards. It waits while too
// much is waiting. The error may be that of an earlier packet.
func (w *Writer) Write(p *types.Packet) error {
	size := p.SizeVT()
	if size > maxPacket {
		return errors.New("packet is too large")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > 0 && len(w.buf)+size+binary.MaxVarintLen32 > batchSize && w.err == nil {
		w.change.Wait()
	}
	if w.err != nil {
		return w.err
	}
	if w.closed {
		return errors.New("write of a packet after the last")
	}
	b := binary.AppendUvarint(w.buf, uint64(size))
	n := len(b)
	b = slices.Grow(b, size)[:n+size]
	if _, err := p.MarshalToSizedBufferVT(b[n:]); err != nil {
		return err
	}
	if len(w.buf) == 0 {
		w.change.Broadcast()
	}
	w.buf = b
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

// Reader takes messages apart.
type Reader struct {
	recv func() (*Packets, error)
	rest []byte
}

// NewReader returns a Reader of the messages that recv returns.
func NewReader(recv func() (*Packets, error)) *Reader { return &Reader{recv: recv} }

// Read fills in the next packet. The errors are those of recv, and of messages
// that are not made as they should be.
func (r *Reader) Read(p *types.Packet) error {
	for len(r.rest) == 0 {
		m, err := r.recv()
		if err != nil {
			return err
		}
		r.rest = m.GetData()
	}
	size, n := binary.Uvarint(r.rest)
	if n <= 0 || size > maxPacket || size > uint64(len(r.rest)-n) {
		return errors.New("a message of packets is damaged")
	}
	data := r.rest[n : n+int(size)]
	r.rest = r.rest[n+int(size):]
	// The packet refers to data, which nothing writes to again.
	if err := p.UnmarshalVTUnsafe(data); err != nil || p.Stat == nil {
		return err
	}
	p.ResetVT() // but what is kept of a list entry shall not hold a whole message in memory
	return p.UnmarshalVT(data)
}
