package boltdb

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

func fill(t *testing.T, path string) {
	t.Helper()
	d, err := Open(path, slog.New(slog.DiscardHandler), "b")
	if err != nil {
		t.Fatal(err)
	}
	err = d.Update(func(tx *bbolt.Tx) error {
		for i := range 2000 {
			if err := tx.Bucket([]byte("b")).Put(fmt.Appendf(nil, "key%d", i), bytes.Repeat([]byte{'v'}, 100)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, d *DB) (n int) {
	t.Helper()
	err := d.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("b")).ForEach(func(k, v []byte) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDamageStartsCold(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"garbage":   func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) },
		"truncated": func(b []byte) []byte { return b[:3*4096] },
		"pages":     func(b []byte) []byte { return append(b[:2*4096:2*4096], bytes.Repeat([]byte{0xff}, len(b)-2*4096)...) },
		"short":     func(b []byte) []byte { return b[:100] },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "x.db")
			fill(t, path)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			d, err := Open(path, slog.New(slog.NewTextHandler(&log, nil)), "b")
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if n := count(t, d); n != 0 {
				t.Errorf("%d entries in the new database", n)
			}
			if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), path) {
				t.Errorf("log: %q", log.String())
			}
			if m, _ := filepath.Glob(path + ".damaged-*"); len(m) != 1 {
				t.Errorf("moved aside: %v", m)
			}
		})
	}
}

func TestDamageFoundLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	fill(t, path)
	d, err := Open(path, slog.New(slog.DiscardHandler), "b")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		return d.View(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("b")).ForEach(func(k, v []byte) error { return nil })
		})
	}
	if err := read(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("read of a truncated database: %v", err)
	}
	if err := read(); !errors.Is(err, ErrDamaged) {
		t.Errorf("second read: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	// The lock goes with the process; here it goes with the path.
	next := filepath.Join(t.TempDir(), "x.db")
	for _, suffix := range []string{"", ".damaged"} {
		if err := os.Rename(path+suffix, next+suffix); err != nil {
			t.Fatal(err)
		}
	}
	d, err = Open(next, slog.New(slog.DiscardHandler), "b")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if n := count(t, d); n != 0 {
		t.Errorf("%d entries in the new database", n)
	}
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	fill(t, path)
	d, err := Open(path, slog.New(slog.DiscardHandler), "b", "new")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if n := count(t, d); n != 2000 {
		t.Errorf("%d entries, want 2000", n)
	}
	if _, err := Open(path, slog.New(slog.DiscardHandler), "b"); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("second Open: %v", err)
	}
}
