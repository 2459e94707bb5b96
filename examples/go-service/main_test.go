package main

import "testing"

func TestGreeting(t *testing.T) {
	for name, want := range map[string]string{"": "hello, world (version dev)", "buildd": "hello, buildd (version dev)"} {
		if got := greeting(name); got != want {
			t.Errorf("greeting(%q) is %q, want %q", name, got, want)
		}
	}
}
