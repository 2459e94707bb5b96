package filesyncv1

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/tonistiigi/fsutil/types"
)

// pipe carries messages from a Writer to a Reader.
func pipe() (*Writer, *Reader) {
	c := make(chan *Packets, 1)
	w := NewWriter(func(p *Packets) error { c <- p; return nil })
	return w, NewReader(func() (*Packets, error) {
		p, ok := <-c
		if !ok {
			return nil, io.EOF
		}
		return p, nil
	})
}

func TestPackets(t *testing.T) {
	w, r := pipe()
	data := make([]byte, 32<<10)
	const n = 1000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint32(n) {
			for j := range data {
				data[j] = byte(i)
			}
			// The same memory each time, as fsutil does.
			if err := w.Write(&types.Packet{Type: types.PACKET_DATA, ID: i, Data: data[:i%uint32(len(data))]}); err != nil {
				t.Error(err)
			}
		}
		if err := w.Write(&types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "a", Xattrs: map[string][]byte{"user.x": []byte("y")}}}); err != nil {
			t.Error(err)
		}
		if err := w.Write(&types.Packet{Type: types.PACKET_STAT}); err != nil { // no bytes at all
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range uint32(n) {
		var p types.Packet
		if err := r.Read(&p); err != nil {
			t.Fatal(err)
		}
		if p.ID != i || p.Type != types.PACKET_DATA || !bytes.Equal(p.Data, bytes.Repeat([]byte{byte(i)}, int(i))) {
			t.Fatalf("packet %d came as %d with %d bytes", i, p.ID, len(p.Data))
		}
	}
	var p types.Packet
	if err := r.Read(&p); err != nil || p.Stat.Path != "a" || string(p.Stat.Xattrs["user.x"]) != "y" {
		t.Errorf("%v, %v", &p, err)
	}
	p = types.Packet{}
	if err := r.Read(&p); err != nil || p.Stat != nil || p.Type != types.PACKET_STAT {
		t.Errorf("%v, %v", &p, err)
	}
	wg.Wait()
	if err := w.Write(&types.Packet{}); err == nil {
		t.Error("a packet was taken after Close")
	}
}

func TestWriterError(t *testing.T) {
	broken := errors.New("broken")
	w := NewWriter(func(*Packets) error { return broken })
	var err error
	for err == nil { // at the latest when too much waits
		err = w.Write(&types.Packet{Type: types.PACKET_DATA, Data: make([]byte, 64<<10)})
	}
	if !errors.Is(err, broken) || !errors.Is(w.Close(), broken) {
		t.Errorf("got %v", err)
	}
	if err := w.Write(&types.Packet{Data: make([]byte, maxPacket)}); err == nil {
		t.Error("a packet was taken that no Reader takes")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte{2, 8, 2})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		sent := false
		r := NewReader(func() (*Packets, error) {
			if sent {
				return nil, io.EOF
			}
			sent = true
			return &Packets{Data: data}, nil
		})
		total := 0
		for {
			var p types.Packet
			if err := r.Read(&p); err != nil {
				return
			}
			if total += 1 + len(p.Data); total > len(data) {
				t.Fatal("more came than was sent")
			}
		}
	})
}
