// Package cachetest holds the tests that every implementation of the solver's
// cache has to pass: the local action store, the farm's, one in memory.
package cachetest
