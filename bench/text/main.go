// Command text writes text to standard output: text SEED BYTES [SECONDS]. It
// stands for what a RUN step computes: with SECONDS it keeps one core busy for
// so long, evenly over the text. It is a program of the base image.
package main

import (
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/buildd/buildd/bench/prose"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "text:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 && len(args) != 3 {
		return fmt.Errorf("want SEED BYTES [SECONDS], got %q", args)
	}
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("parse size: %w", err)
	}
	var seconds float64
	if len(args) == 3 {
		if seconds, err = strconv.ParseFloat(args[2], 64); err != nil {
			return fmt.Errorf("parse seconds: %w", err)
		}
	}
	seed := fnv.New64a()
	io.WriteString(seed, args[0])
	return write(prose.New(seed.Sum64()), size, time.Duration(seconds*float64(time.Second)))
}

func write(r io.Reader, size int64, d time.Duration) error {
	start := time.Now()
	buf := make([]byte, 1<<20)
	for done := int64(0); done < size; {
		n := min(int64(len(buf)), size-done)
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(buf[:n]); err != nil {
			return err
		}
		done += n
		for end := start.Add(d * time.Duration(done/1024) / time.Duration(size/1024+1)); time.Now().Before(end); {
			sha256.Sum256(buf[:1<<16])
		}
	}
	return nil
}
