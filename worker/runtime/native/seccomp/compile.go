package seccomp

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rule is what a profile says of one system call: the first of the conditional
// alternatives that holds counts, then the action.
type rule struct {
	when   []alternative
	action uint32
	closed bool // action is the profile's, not its default
}

type alternative struct {
	args   []specs.LinuxSeccompArg // all of them
	action uint32
}

// span is a range of call numbers, up to the next span's first, with one rule.
type span struct {
	first uint32
	rule  *rule
}

// Compile returns the filter of a profile. Calls of architectures that the
// profile does not list kill the thread, as libseccomp has it.
func Compile(p *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	if p.ListenerPath != "" {
		return nil, fmt.Errorf("seccomp listener %q: notification of a listener is not supported", p.ListenerPath)
	}
	list, err := find(p.Architectures)
	if err != nil {
		return nil, err
	}
	fallback, err := ret(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	a := &asm{}
	bad := a.newLabel()
	a.load(offArch)
	// One section per audit architecture; x86_64 and x32 share one.
	for len(list) > 0 {
		section := slices.DeleteFunc(slices.Clone(list), func(x arch) bool { return x.audit != list[0].audit })
		list = slices.DeleteFunc(list, func(x arch) bool { return x.audit == section[0].audit })
		next := a.newLabel()
		a.jumpIfNot(unix.BPF_JEQ, section[0].audit, next)
		a.load(offNr)
		if err := a.section(p, section, fallback, bad); err != nil {
			return nil, err
		}
		a.place(next)
	}
	a.place(bad)
	a.ret(unix.SECCOMP_RET_KILL_THREAD)
	return a.assemble()
}

// section compiles the rules of the ABIs that share an audit architecture; the
// accumulator holds the call's number.
func (a *asm) section(p *specs.LinuxSeccomp, abis []arch, fallback uint32, bad label) error {
	for _, abi := range abis {
		spans, err := layout(p, abi, fallback)
		if err != nil {
			return err
		}
		other := a.newLabel()
		if abi.audit == unix.AUDIT_ARCH_X86_64 {
			if abi.name == specs.ArchX32 {
				a.jumpIfNot(unix.BPF_JGE, x32Bit, other)
			} else {
				a.jumpIf(unix.BPF_JGE, x32Bit, other)
			}
		}
		a.search(abi, spans)
		a.place(other)
	}
	if abis[0].audit == unix.AUDIT_ARCH_X86_64 {
		a.jump(bad)
	}
	return nil
}

// search emits a binary search for the span that the accumulator lies in.
func (a *asm) search(abi arch, spans []span) {
	if len(spans) == 1 {
		a.rule(abi, spans[0].rule)
		return
	}
	mid := len(spans) / 2
	high := a.newLabel()
	a.jumpIf(unix.BPF_JGE, spans[mid].first, high)
	a.search(abi, spans[:mid])
	a.place(high)
	a.search(abi, spans[mid:])
}

func (a *asm) rule(abi arch, r *rule) {
	for _, alt := range r.when {
		next := a.newLabel()
		for _, arg := range alt.args {
			a.condition(abi, arg, next)
		}
		a.ret(alt.action)
		a.place(next)
	}
	a.ret(r.action)
}

// layout collects the rules of an ABI's calls, sorted, with equal neighbours
// made one.
func layout(p *specs.LinuxSeccomp, abi arch, fallback uint32) ([]span, error) {
	rules, err := collect(p, abi, fallback)
	if err != nil {
		return nil, err
	}
	numbers := make([]uint32, 0, len(rules))
	for nr := range rules {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	deny := &rule{action: fallback}
	spans := []span{{0, deny}}
	set := func(first uint32, r *rule) {
		if last := &spans[len(spans)-1]; last.first == first {
			last.rule = r
			return
		}
		spans = append(spans, span{first, r})
	}
	for _, nr := range numbers {
		set(nr, rules[nr])
		set(nr+1, deny)
	}
	if len(numbers) > 0 && fallback&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
		set(numbers[len(numbers)-1]+1, &rule{action: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
		// -1 is the number of a call that a tracer took out, not a new one.
		set(math.MaxUint32, deny)
	}
	return slices.CompactFunc(spans, func(x, y span) bool {
		return len(x.rule.when)+len(y.rule.when) == 0 && x.rule.action == y.rule.action
	}), nil
}

// collect returns the rules of an ABI by call number.
func collect(p *specs.LinuxSeccomp, abi arch, fallback uint32) (map[uint32]*rule, error) {
	numbers := make(map[string]uint32, len(abi.calls))
	for _, c := range abi.calls {
		numbers[c.name] = c.nr
	}
	rules := make(map[uint32]*rule)
	for _, s := range p.Syscalls {
		action, err := ret(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		alts, err := alternatives(s.Args, action)
		if err != nil {
			return nil, fmt.Errorf("seccomp rule of %v: %w", s.Names, err)
		}
		for _, name := range s.Names {
			nr, ok := numbers[name]
			if !ok { // a call of another architecture, or of a newer kernel
				continue
			}
			r := rules[nr]
			if r == nil {
				r = &rule{action: fallback}
				rules[nr] = r
			}
			if len(s.Args) > 0 {
				r.when = append(r.when, alts...)
			} else if !r.closed {
				r.action, r.closed = action, true
			}
		}
	}
	for _, r := range rules {
		// A condition that leads to what happens anyway says nothing.
		if !slices.ContainsFunc(r.when, func(x alternative) bool { return x.action != r.action }) {
			r.when = nil
		}
	}
	return rules, nil
}

// alternatives splits the conditions of a rule: all must hold, but conditions on
// one argument are alternatives (runc does so since Docker's old profiles relied
// on it).
func alternatives(args []specs.LinuxSeccompArg, action uint32) ([]alternative, error) {
	if len(args) == 0 {
		return nil, nil
	}
	seen := make(map[uint]bool)
	repeated := false
	for _, arg := range args {
		if arg.Index > 5 {
			return nil, fmt.Errorf("argument index %d: want at most 5", arg.Index)
		}
		if !known(arg.Op) {
			return nil, fmt.Errorf("operator %q is not supported", arg.Op)
		}
		repeated = repeated || seen[arg.Index]
		seen[arg.Index] = true
	}
	if !repeated {
		return []alternative{{slices.Clone(args), action}}, nil
	}
	var out []alternative
	for _, arg := range args {
		out = append(out, alternative{[]specs.LinuxSeccompArg{arg}, action})
	}
	slices.SortStableFunc(out, func(x, y alternative) int { return cmp.Compare(x.args[0].Index, y.args[0].Index) })
	return out, nil
}
