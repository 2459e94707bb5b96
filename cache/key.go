package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Key is a SHA-256 digest over everything that an outcome depends on. The zero
// Key is no key.
type Key [sha256.Size]byte

// String returns the key as 64 lower-case hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// IsZero tells whether k is no key.
func (k Key) IsZero() bool { return k == Key{} }

// MarshalText writes the key as 64 hexadecimal digits.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Key) UnmarshalText(b []byte) error {
	v, err := ParseKey(string(b))
	*k = v
	return err
}

// ParseKey reads 64 hexadecimal digits.
func ParseKey(s string) (Key, error) {
	var k Key
	if hex.DecodedLen(len(s)) != len(k) {
		return k, fmt.Errorf("parse key %q: want %d hexadecimal digits", s, hex.EncodedLen(len(k)))
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return Key{}, fmt.Errorf("parse key %q: %w", s, err)
	}
	return k, nil
}

// Hash digests a kind and a list of parts. Each part's length counts, so that
// no two lists share a digest; kinds keep the digests of different purposes
// apart.
func Hash(kind string, parts ...[]byte) Key {
	h := sha256.New()
	var n [8]byte
	write := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	write([]byte(kind))
	for _, p := range parts {
		write(p)
	}
	return Key(h.Sum(nil))
}
