package main

import (
	"context"
	"fmt"
)

// A workload is something that people do with a builder. Its functions are
// called per engine: start once, then in every round before, read, run and after, of
// which only run is timed.
type workload struct {
	name   string
	what   string
	target float64 // what the ratio to BuildKit must reach; zero is none
	net    string  // of RUN: "host" by default, "own"
	floor  string  // workload of bench/floor; empty where a floor has no meaning
	unit   string  // of what value returns; seconds by default
	group  string  // workloads of one group, one after the other, share the engines' states
	debian bool    // needs a Debian root file system
	cold   bool    // every round begins with an empty state
	once   bool    // one round, none to warm up
	writes int64   // bytes of files that run writes, about

	without map[string]string // engines that cannot do it, and why

	setup  func(ctx context.Context, b *bench) error
	start  func(ctx context.Context, b *bench, e engine) error
	before func(ctx context.Context, b *bench, e engine, round int) error
	read   func(ctx context.Context, b *bench, e engine) error // reads what run will read, just before; e is nil for the floor
	run    func(ctx context.Context, b *bench, e engine, round int) (outcome, error)
	after  func(ctx context.Context, b *bench, e engine, round int, o outcome) error
	value  func(e engine) (float64, error) // what is reported instead of the time
}

// workloads lists what there is, in the order of the table.
func workloads() []*workload {
	var all []*workload
	all = append(all, stepWorkloads()...)
	all = append(all, treeWorkloads()...)
	all = append(all, layerWorkloads()...)
	all = append(all, stageWorkloads()...)
	all = append(all, memoryWorkloads(all)...)
	all = append(all, reuseWorkloads()...)
	return all
}

// want returns an error unless so many RUN steps of a build were run and so
// many taken from the cache.
func (o outcome) want(ran, cached int) error {
	if o.ran != ran || o.cached != cached {
		return fmt.Errorf("%d RUN steps ran and %d were cached, want %d and %d", o.ran, o.cached, ran, cached)
	}
	return nil
}

// wantCopy does the same for COPY steps.
func (o outcome) wantCopy(copied, kept int) error {
	if o.copied != copied || o.kept != kept {
		return fmt.Errorf("%d COPY steps ran and %d were cached, want %d and %d", o.copied, o.kept, copied, kept)
	}
	return nil
}
