// Package azblob talks to Azure Blob Storage as far as a cache needs it: a
// [Container] puts, gets and heads blobs, with an account's key (Shared Key) or an
// access token that [Identity] gets where Azure's own SDK gets it. [PutURL] writes
// to a URL that is signed already.
package azblob
