// Package s3 talks to S3 and what is compatible with it, as far as a cache needs
// it: a [Bucket] puts, gets, heads and touches objects, signed with version 4 of
// AWS's signatures. [Chain] finds credentials where AWS's own SDK finds them.
package s3
