// Package git is the source git://: the files of a commit.
//
// One bare repository per remote is kept in the state directory, and holds what
// was ever fetched from it; a commit that is in there is never fetched again.
// What a branch or tag is now is asked of the remote (ls-remote) once per build.
// A checkout is made in a repository of its own that borrows the objects of the
// kept one, so no build sees what another has configured or checked out.
//
// All is done with the git program, without the configuration of this host and
// without any protocol but http, https, ssh and git. Secrets are handed to it in
// its environment, which other users cannot read, and never in arguments.
package git
