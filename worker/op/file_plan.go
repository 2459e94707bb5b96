package op

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/solver/pb"
)

// filePlan is the order in which the actions of a file op run.
type filePlan struct {
	inputs int
	// order names the actions that an output depends on, each after those that
	// it depends on itself.
	order []int
	// handOver tells of an action that its layer goes on being written by the one
	// action that uses it, so that no tree is made of it.
	handOver []bool
	// outputs are the actions whose results the outputs are.
	outputs []int
}

// reference returns the action that input index i stands for, -1 if it is an
// input of the op or none.
func (p *filePlan) reference(i int64) int {
	if i < int64(p.inputs) {
		return -1
	}
	return int(i) - p.inputs
}

// needs lists the actions whose results a uses beside its first input.
func (p *filePlan) needs(a *pb.FileAction) []int {
	var out []int
	for _, i := range append(ownerInputs(a), a.SecondaryInput) {
		// An owner that is looked up in what is written over is found there.
		if r := p.reference(i); r >= 0 && (i != a.Input || i == a.SecondaryInput) {
			out = append(out, r)
		}
	}
	return out
}

// planFile orders the actions, whose indexes must be in range.
func planFile(actions []*pb.FileAction, inputs int) (*filePlan, error) {
	p := &filePlan{inputs: inputs, handOver: make([]bool, len(actions))}
	uses := make([]int, len(actions))
	usedAlone := make([]bool, len(actions)) // as first input
	for i, a := range actions {
		if r := p.reference(a.Input); r >= 0 {
			uses[r]++
			usedAlone[r] = true
		}
		for _, r := range p.needs(a) {
			uses[r] += 2 // never handed over
		}
		if a.Output >= 0 {
			for int64(len(p.outputs)) <= a.Output {
				p.outputs = append(p.outputs, -1)
			}
			p.outputs[a.Output] = i
			uses[i] += 2
		}
	}
	for i := range actions {
		p.handOver[i] = uses[i] == 1 && usedAlone[i]
	}
	if len(p.outputs) == 0 {
		return nil, errors.New("file op has no outputs")
	}
	return p, p.sort(actions)
}

// sort fills order by depth-first search without recursion: a hostile op can
// chain as many actions as it likes.
func (p *filePlan) sort(actions []*pb.FileAction) error {
	const (
		open = 1 // on the way from an output to here
		done = 2
	)
	state := make([]int, len(actions))
	var stack []int
	for _, out := range p.outputs {
		stack = append(stack, out)
		for len(stack) > 0 {
			i := stack[len(stack)-1]
			if state[i] == done {
				stack = stack[:len(stack)-1]
				continue
			}
			state[i] = open
			ready := true
			refs := p.needs(actions[i])
			if r := p.reference(actions[i].Input); r >= 0 {
				refs = append(refs, r)
			}
			for _, r := range refs {
				switch state[r] {
				case open:
					return fmt.Errorf("file action %d depends on itself", r)
				case 0:
					stack = append(stack, r)
					ready = false
				}
			}
			if ready {
				state[i] = done
				p.order = append(p.order, i)
				stack = stack[:len(stack)-1]
			}
		}
	}
	return nil
}

// ownerInputs returns the inputs in which a looks names up.
func ownerInputs(a *pb.FileAction) []int64 {
	var out []int64
	owner := actionOwner(a)
	for _, u := range []*pb.UserOpt{owner.GetUser(), owner.GetGroup()} {
		if n := u.GetByName(); n != nil {
			out = append(out, n.Input)
		}
	}
	return out
}

func actionOwner(a *pb.FileAction) *pb.ChownOpt {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return x.Copy.GetOwner()
	case *pb.FileAction_Mkfile:
		return x.Mkfile.GetOwner()
	case *pb.FileAction_Mkdir:
		return x.Mkdir.GetOwner()
	case *pb.FileAction_Symlink:
		return x.Symlink.GetOwner()
	default: // rm creates nothing
		return nil
	}
}
