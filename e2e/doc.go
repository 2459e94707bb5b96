// Package e2e tests buildd as people use it: each test starts the real daemon on
// a state directory of its own, talks to it with the real client, and looks at
// the images with other people's tools. It needs root, overlayfs and the
// programs that script/need installs.
package e2e
