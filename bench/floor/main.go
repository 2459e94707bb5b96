// Command floor measures what this machine allows: floor WORKLOAD DIR FIXTURES
// does the bare work of a workload once, in DIR, with what bench made in
// FIXTURES, and prints the seconds that it took. Only what a builder cannot do
// without is timed.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"time"
)

// place is where a floor works.
type place struct {
	dir      string // empty
	fixtures string // what bench made
}

// floors returns, by workload, what does its bare work. Each times itself, as
// preparations differ.
func floors() map[string]func(p place) (time.Duration, error) {
	return map[string]func(p place) (time.Duration, error){
		"w1":  func(p place) (time.Duration, error) { return steps(p, 30, false) },
		"w1n": func(p place) (time.Duration, error) { return steps(p, 30, true) },
		"w2":  func(p place) (time.Duration, error) { return client(p) },
		"w3a": send, "w3b": walk, "w3c": link, "w3d": archive,
		"w4": push, "w4b": makeAndPush, "w5": unpack,
		"w6": sleepers, "w7": crowd, "w9": dpkg, "w10": cutoff,
	}
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: floor WORKLOAD DIR FIXTURES")
		os.Exit(2)
	}
	f, ok := floors()[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "floor: no workload", os.Args[1])
		os.Exit(2)
	}
	log.SetOutput(io.Discard) // libraries tell that clients leave
	d, err := f(place{dir: os.Args[2], fixtures: os.Args[3]})
	if err != nil {
		fmt.Fprintf(os.Stderr, "floor: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	fmt.Println(d.Seconds())
}
