// Package progress keeps what a build reports, from its first step on, as the
// events of BuildKit's Control.Status. A [Log] takes events from the solver
// (it implements solver.Events) and from work outside the graph ([Log.Begin]),
// and tells everybody who follows it the whole story, however late they come.
package progress
