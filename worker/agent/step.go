package agent

import (
	"crypto/rand"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/cache/tree"
	workerv1 "github.com/buildd/buildd/proto/buildd/worker/v1"
	"github.com/buildd/buildd/worker/op"
)

// step is a request with all that a worker has to be told of it.
type step struct {
	op.Request
	platform *ocispecs.Platform // nil if any will do
	names    names
	// lease keeps inputs and outputs here while the step is elsewhere.
	lease *tree.Lease

	trees  []*workerv1.Tree       // the inputs
	inputs map[cache.LayerID]bool // all layers of inputs
	// layers are those of the inputs and what lies below them in their images,
	// each after the one below it there.
	layers  []*workerv1.Layer
	headers map[string]tree.Header // of layers, by ID, and by digest of their blobs
	sizes   map[string]int64       // likewise

	spoke atomic.Bool // the step wrote something that was passed on
}

// newStep reads what a request's inputs consist of.
func (r *Remote) newStep(q op.Request) (*step, error) {
	if len(q.Inputs) != len(q.Op.Inputs) {
		return nil, fmt.Errorf("op has %d inputs, but %d trees are given", len(q.Op.Inputs), len(q.Inputs))
	}
	s := &step{
		Request: q, lease: r.cfg.Trees.Lease("step on a worker"), names: namesOf(q.Op),
		inputs: map[cache.LayerID]bool{}, headers: map[string]tree.Header{}, sizes: map[string]int64{},
	}
	var err error
	if s.Op, err = withoutDevices(q.Op); err != nil {
		return nil, err
	}
	platform := q.Platform
	if platform == nil {
		platform = q.Op.Platform
	}
	if platform != nil && q.Op.GetExec() != nil {
		s.platform = &ocispecs.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}
	}
	if err := s.addInputs(r.cfg.Trees); err != nil {
		s.lease.Release()
		return nil, err
	}
	return s, nil
}

// withoutDevices leaves out devices that a step can do without, and refuses others:
// whether a build may use a device is decided where it is solved, and nothing is
// known there of devices that other machines have.
func withoutDevices(o *pb.Op) (*pb.Op, error) {
	devices := o.GetExec().GetCdiDevices()
	if len(devices) == 0 {
		return o, nil
	}
	for _, d := range devices {
		if !d.Optional {
			return nil, fmt.Errorf("device %s cannot be had: steps run on other machines, and devices stay on theirs", d.Name)
		}
	}
	o = o.CloneVT()
	o.GetExec().CdiDevices = nil
	return o, nil
}

// heard tells whether anybody has seen output of the step.
func (s *step) heard() bool { return s.spoke.Load() }

// addInputs lists the layers that a worker needs.
func (s *step) addInputs(trees *tree.Store) error {
	for i, t := range s.Inputs {
		if err := s.lease.Add(t); err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
		layers, err := trees.Layers(t)
		if err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
		in := &workerv1.Tree{}
		for _, l := range layers {
			s.inputs[l.ID] = true
			wire, err := s.addLayer(trees, l.ID)
			if err != nil {
				return fmt.Errorf("input %d: %w", i, err)
			}
			in.Layers = append(in.Layers, wire)
		}
		s.trees = append(s.trees, in)
	}
	return nil
}

// addLayer lists a layer after those below it in its image.
func (s *step) addLayer(trees *tree.Store, id cache.LayerID) (*workerv1.Layer, error) {
	var chain []tree.Header
	for at := id; at != ""; {
		h, err := trees.Header(at)
		if err != nil {
			return nil, err
		}
		chain = append(chain, h)
		if _, ok := s.headers[string(at)]; ok {
			break // it and all below are listed
		}
		at = h.Parent
	}
	for _, h := range slices.Backward(chain) {
		if _, ok := s.headers[string(h.ID)]; ok {
			continue
		}
		s.headers[string(h.ID)] = h
		s.layers = append(s.layers, layerOf(h))
		if h.Image != nil {
			d := h.Image.Desc
			s.headers[d.Digest.String()], s.sizes[d.Digest.String()] = h, d.Size
		} else if info, err := trees.Layer(h.ID); err == nil {
			s.sizes[string(h.ID)] = info.Size
		}
	}
	return layerOf(chain[0]), nil
}

// start is the message that begins the step.
func (s *step) start(lease string) (*workerv1.Start, error) {
	m := &workerv1.Start{Name: s.Name, Inputs: s.trees, Lease: lease}
	var err error
	m.Op, err = proto.Marshal(s.Op)
	if err == nil && s.Platform != nil {
		m.Platform, err = proto.Marshal(s.Platform)
	}
	if err == nil && s.Resources != nil {
		m.Resources, err = proto.Marshal(s.Resources)
	}
	if err != nil {
		return nil, fmt.Errorf("write step: %w", err)
	}
	return m, nil
}

// newLease returns a name that no other step has.
func newLease() string { return "step-" + rand.Text() }

// outputs is how many trees a validated op makes.
func outputs(o *pb.Op) int {
	n := int64(0)
	switch x := o.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range x.Exec.Mounts {
			n = max(n, m.Output+1)
		}
	case *pb.Op_File:
		for _, a := range x.File.Actions {
			n = max(n, a.Output+1)
		}
	}
	return int(n)
}

// names are what an op may ask clients for.
type names struct {
	secrets, agents map[string]bool
}

func namesOf(o *pb.Op) names {
	n := names{secrets: map[string]bool{}, agents: map[string]bool{}}
	for _, e := range o.GetExec().GetSecretenv() {
		n.secrets[e.ID] = true
	}
	for _, m := range o.GetExec().GetMounts() {
		switch m.MountType {
		case pb.MountType_SECRET:
			n.secrets[m.SecretOpt.GetID()] = true
		case pb.MountType_SSH:
			id := m.SSHOpt.GetID()
			if id == "" {
				id = sshforward.DefaultID
			}
			n.agents[id] = true
		}
	}
	return n
}
