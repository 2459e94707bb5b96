// Command floor measures what this machine allows: floor WORKLOAD DIR FIXTURES
// prints the seconds that the bare work of a workload takes.
package main

func main() {}
