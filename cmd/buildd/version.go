package main

import "runtime/debug"

// version is set when a release is built.
var version = "0.1.0-dev"

// revision is the commit that the program was built from, "" if it is unknown.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
