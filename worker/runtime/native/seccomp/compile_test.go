package seccomp

import (
	"math/rand/v2"
	"testing"

	profile "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

func (d data) word(off uint32) uint32 {
	switch {
	case off == offNr:
		return d.nr
	case off == offArch:
		return d.arch
	default:
		return uint32(d.args[(off-offArgs)/8] >> (8 * (off % 8)))
	}
}

// run is the kernel's machine, as far as filters need it (little endian).
func run(t *testing.T, prog []unix.SockFilter, d data) uint32 {
	t.Helper()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		skip := func(ok bool) {
			if ok {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = d.word(in.K)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			skip(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			skip(acc >= in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			skip(acc > in.K)
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

// want evaluates a profile the slow way.
func want(p *specs.LinuxSeccomp, name string, args [6]uint64, fallback uint32) uint32 {
	holds := func(a specs.LinuxSeccompArg) bool {
		v := args[a.Index]
		switch a.Op {
		case specs.OpEqualTo:
			return v == a.Value
		case specs.OpNotEqual:
			return v != a.Value
		case specs.OpLessThan:
			return v < a.Value
		case specs.OpLessEqual:
			return v <= a.Value
		case specs.OpGreaterThan:
			return v > a.Value
		case specs.OpGreaterEqual:
			return v >= a.Value
		default:
			return v&a.Value == a.ValueTwo
		}
	}
	for _, conditional := range []bool{true, false} {
		for _, s := range p.Syscalls {
			for _, n := range s.Names {
				if n != name || len(s.Args) > 0 != conditional {
					continue
				}
				ok := true
				for _, a := range s.Args {
					ok = ok && holds(a)
				}
				if ok {
					r, _ := ret(s.Action, s.ErrnoRet)
					return r
				}
			}
		}
	}
	return fallback
}

func dockerProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := profile.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDockerProfileOnEveryCall(t *testing.T) {
	p := dockerProfile(t, "CAP_SYS_CHROOT")
	prog, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(prog))
	list, err := find(p.Architectures)
	if err != nil {
		t.Fatal(err)
	}
	values := []uint64{0, 1, 8, 37, 38, 39, 40, 41, 45, 46, 0x20000, 0x20008, 0xffffffff, 1 << 32, 1<<32 | 8, 0x7e020000, 0x10000000, ^uint64(0)}
	denied := uint32(unix.SECCOMP_RET_ERRNO | 1)
	for _, abi := range list {
		newest := uint32(0)
		for _, c := range abi.calls {
			if want(p, c.name, [6]uint64{}, 1) != 1 {
				newest = max(newest, c.nr)
			}
		}
		for _, c := range abi.calls {
			for _, v := range values {
				d := data{c.nr, abi.audit, [6]uint64{v}}
				w := want(p, c.name, d.args, denied)
				if c.nr > newest {
					w = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
				}
				if got := run(t, prog, d); got != w {
					t.Fatalf("%s %s(%#x): %#x, want %#x", abi.name, c.name, v, got, w)
				}
			}
		}
	}
}

func TestUnknownCalls(t *testing.T) {
	prog, err := Compile(dockerProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	native := arches()[0].audit
	for _, c := range []struct {
		name string
		d    data
		want uint32
	}{
		{"newer than the profile", data{nr: 2000, arch: native}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{"taken out by a tracer", data{nr: ^uint32(0), arch: native}, unix.SECCOMP_RET_ERRNO | 1},
		{"another machine", data{nr: 1, arch: unix.AUDIT_ARCH_PARISC}, unix.SECCOMP_RET_KILL_THREAD},
	} {
		if got := run(t, prog, c.d); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestX32IsKilledUnlessListed(t *testing.T) {
	if Native != specs.ArchX86_64 {
		t.Skip("x32 is an ABI of amd64")
	}
	prog, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}})
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, prog, data{nr: 1 | x32Bit, arch: unix.AUDIT_ARCH_X86_64}); got != unix.SECCOMP_RET_KILL_THREAD {
		t.Errorf("x32 call: %#x", got)
	}
	if got := run(t, prog, data{nr: 1, arch: unix.AUDIT_ARCH_X86_64}); got != unix.SECCOMP_RET_ALLOW {
		t.Errorf("native call: %#x", got)
	}
}

// TestConditions compares every operator with its meaning, around the values
// where the halves of 64 bits matter.
func TestConditions(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	edge := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<32 | 1, 1<<32 | 0xffffffff, 2 << 32, ^uint64(0)}
	pick := func() uint64 { return edge[rnd.IntN(len(edge))] }
	for range 300 {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
		ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
		for range 1 + rnd.IntN(3) {
			s := specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActAllow}
			for i := range 1 + rnd.IntN(2) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(i), Value: pick(), ValueTwo: pick(), Op: ops[rnd.IntN(len(ops))]})
			}
			p.Syscalls = append(p.Syscalls, s)
		}
		prog, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		var nr uint32
		for _, c := range arches()[0].calls {
			if c.name == "write" {
				nr = c.nr
			}
		}
		for range 60 {
			d := data{nr, arches()[0].audit, [6]uint64{pick(), pick()}}
			if got, w := run(t, prog, d), want(p, "write", d.args, unix.SECCOMP_RET_ERRNO|1); got != w {
				t.Fatalf("%+v\nargs %#x: %#x, want %#x", p.Syscalls, d.args[:2], got, w)
			}
		}
	}
}

func TestRefusesWhatItDoesNotKnow(t *testing.T) {
	allow := func(arg specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"write"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{arg}},
		}}
	}
	for name, p := range map[string]*specs.LinuxSeccomp{
		"action":       {DefaultAction: "SCMP_ACT_NOTHING"},
		"notify":       {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"write"}, Action: specs.ActNotify}}},
		"architecture": {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_NONE"}},
		"operator":     allow(specs.LinuxSeccompArg{Op: "SCMP_CMP_NONE"}),
		"argument":     allow(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}),
		"listener":     {DefaultAction: specs.ActAllow, ListenerPath: "/run/x.sock"},
	} {
		if _, err := Compile(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	p := dockerProfile(b)
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
