// Package prose makes text that compresses about as well as what people write:
// words of a vocabulary, common ones more often, in lines. The same seed gives
// the same text on every machine. It is much faster than any compressor, so that
// making it does not show in what is measured.
package prose

import "io"

const vocabulary = 4096 // a power of two

// A Reader is an endless text.
type Reader struct {
	state uint64
	line  int    // bytes in the current line
	rest  []byte // of the current word
}

var words = func() [vocabulary]string {
	var w [vocabulary]string
	r := Reader{state: 88172645463325252}
	for i := range w {
		b := make([]byte, 2+r.next()%9, 12)
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkjqxz"[r.next()%26&(r.next()%32)%26]
		}
		w[i] = string(append(b, ' '))
	}
	return w
}()

// New returns the text of a seed.
func New(seed uint64) *Reader {
	return &Reader{state: seed*0x9e3779b97f4a7c15 | 1}
}

// Size returns the first n bytes of the text of a seed.
func Size(seed uint64, n int64) io.Reader { return io.LimitReader(New(seed), n) }

func (r *Reader) next() uint64 {
	r.state ^= r.state << 13
	r.state ^= r.state >> 7
	r.state ^= r.state << 17
	return r.state
}

// Read fills p.
func (r *Reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(r.rest) == 0 {
			r.word()
		}
		c := copy(p[n:], r.rest)
		r.rest = r.rest[c:]
		n += c
	}
	return n, nil
}

// word takes the next word: the bits of two random numbers that are both set,
// which makes low places common and high ones rare.
func (r *Reader) word() {
	x := r.next()
	w := words[x&(x>>20)%vocabulary]
	if r.line += len(w); r.line > 72 {
		r.line = 0
		r.rest = append(append(r.rest[:0], w[:len(w)-1]...), '\n')
		return
	}
	r.rest = append(r.rest[:0], w...)
}

// Noise is an endless stream that does not compress.
type Noise struct{ r *Reader }

// NewNoise returns the noise of a seed.
func NewNoise(seed uint64) *Noise { return &Noise{New(seed)} }

// Read fills p.
func (n *Noise) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += 8 {
		x := n.r.next()
		for j := i; j < min(i+8, len(p)); j++ {
			p[j] = byte(x)
			x >>= 8
		}
	}
	return len(p), nil
}
