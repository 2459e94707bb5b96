// Package image has the commands about the daemon's image store. import and
// load are builds of one step that put their result there, save is one that
// takes it out; ls, inspect and rm call buildd's own service.
package image
