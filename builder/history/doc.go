// Package history keeps the records of builds (BuildKit's BuildHistoryRecord):
// what was asked for, how it ended, its whole progress and its error. Records
// live in a database, the logs in the blob store, where [Store.Roots] keeps them
// from being swept.
package history
