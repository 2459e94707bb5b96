// Package signature verifies detached signatures over what sources fetch:
// OpenPGP for files and git objects, SSH (the sshsig format of OpenSSH's
// PROTOCOL.sshsig) for git objects.
package signature
