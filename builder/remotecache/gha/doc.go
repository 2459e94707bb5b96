// Package gha talks to the cache service of GitHub Actions, version 2: twirp calls
// that give out signed URLs of Azure's blob storage. Entries have a key and cannot
// be changed; [Client.SaveMutable] gives a key that can be its next number instead,
// as BuildKit does.
package gha
