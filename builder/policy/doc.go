// Package policy applies source policies (BuildKit's sourcepolicy/pb): rules by
// which a client or an administrator allows, denies or replaces what a build
// fetches. An [Engine] rewrites the source ops of a build before anything is
// resolved by them.
package policy
