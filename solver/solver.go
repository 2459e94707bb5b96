package solver

// Build is one client's request.
type Build struct{ ID string }
