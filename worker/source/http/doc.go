// Package http is the source of http:// and https:// URLs: a tree with one file.
//
// Without a checksum the URL is asked whether it is still what it was, by ETag
// or Last-Modified; what it was then is remembered with the tree that has the
// bytes. With a checksum nobody is asked before the file is needed.
// http://buildkit-session/ID is what the client uploads, such as a context on
// its standard input.
package http
