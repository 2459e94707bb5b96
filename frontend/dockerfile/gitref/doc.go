// Package gitref reads the git URLs that a Dockerfile and a command line may name: the ones of git itself
// (https://host/repo.git, ssh://, git://, git@host:path), with a fragment "#ref:subdir" or a query as
// https://docs.docker.com/build/concepts/context/#url-queries describes.
//
// [Parse] tells whether a string is such a URL and [Ref] what it asks for; [Ref.Options] how to fetch it. Do not use
// it for what git's own configuration or a remote helper understands beyond that: a string that is no git URL here is a path or
// a download.
package gitref
