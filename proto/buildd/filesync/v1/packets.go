package filesyncv1

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/buildd/buildd/proto/gather"
	"github.com/tonistiigi/fsutil/types"
)

// maxPacket bounds one packet: a chunk of a file, or the list entry of one.
const maxPacket = 512 << 10

// Writer gathers packets into messages.
type Writer struct {
	out *gather.Writer
}

// NewWriter returns a Writer that hands its messages to send, one at a time.
func NewWriter(send func(*Packets) error) *Writer {
	return &Writer{out: gather.NewWriter(func(b []byte) error { return send(&Packets{Data: b}) })}
}

// Write sends a packet, which may be used again afterwards. It waits while too
// much is waiting. The error may be that of an earlier packet.
func (w *Writer) Write(p *types.Packet) error {
	size := p.SizeVT()
	if size > maxPacket {
		return errors.New("packet is too large")
	}
	return w.out.Append(size+binary.MaxVarintLen32, func(buf []byte) ([]byte, error) {
		buf = binary.AppendUvarint(buf, uint64(size))
		n := len(buf)
		buf = slices.Grow(buf, size)[:n+size]
		_, err := p.MarshalToSizedBufferVT(buf[n:])
		return buf, err
	})
}

// Close waits until all is sent and returns the error that stopped it.
func (w *Writer) Close() error { return w.out.Close() }

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
