// Package why has the command that says why the steps of a build ran. It asks
// buildd's own service.
package why
