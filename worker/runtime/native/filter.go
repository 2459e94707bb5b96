package native

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/buildd/buildd/worker/runtime/native/seccomp"
)

// filters keeps compiled seccomp filters by the content of their profiles, of
// which a daemon sees very few.
type filters struct {
	mu sync.Mutex
	m  map[[sha256.Size]byte][]byte
}

// maxFilters bounds the cache; it is emptied when full.
const maxFilters = 64

func (f *filters) get(p *specs.LinuxSeccomp) ([]byte, error) {
	key := profileKey(p)
	f.mu.Lock()
	prog, ok := f.m[key]
	f.mu.Unlock()
	if ok {
		return prog, nil
	}
	code, err := seccomp.Compile(p)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, code); err != nil {
		return nil, fmt.Errorf("encode seccomp filter: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil || len(f.m) >= maxFilters {
		f.m = make(map[[sha256.Size]byte][]byte)
	}
	f.m[key] = b.Bytes()
	return b.Bytes(), nil
}

func profileKey(p *specs.LinuxSeccomp) [sha256.Size]byte {
	var b []byte
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	errno := func(e *uint) {
		if e == nil {
			b = append(b, 0)
			return
		}
		b = binary.AppendUvarint(append(b, 1), uint64(*e))
	}
	str(string(p.DefaultAction))
	errno(p.DefaultErrnoRet)
	str(p.ListenerPath)
	b = binary.AppendUvarint(b, uint64(len(p.Architectures)))
	for _, a := range p.Architectures {
		str(string(a))
	}
	for _, s := range p.Syscalls {
		str(string(s.Action))
		errno(s.ErrnoRet)
		b = binary.AppendUvarint(b, uint64(len(s.Names)))
		for _, n := range s.Names {
			str(n)
		}
		b = binary.AppendUvarint(b, uint64(len(s.Args)))
		for _, a := range s.Args {
			str(string(a.Op))
			b = binary.AppendUvarint(b, uint64(a.Index))
			b = binary.AppendUvarint(b, a.Value)
			b = binary.AppendUvarint(b, a.ValueTwo)
		}
	}
	return sha256.Sum256(b)
}
