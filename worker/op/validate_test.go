package op

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

func TestValidate(t *testing.T) {
	exec := func(change func(*pb.ExecOp)) *pb.Op {
		x := shell("true")
		change(x)
		return &pb.Op{Inputs: make([]*pb.Input, 1), Op: &pb.Op_Exec{Exec: x}}
	}
	mnt := func(m *pb.Mount) *pb.Op {
		return exec(func(x *pb.ExecOp) { x.Mounts = append(x.Mounts, m) })
	}
	file := func(change func(*pb.FileAction)) *pb.Op {
		a := mkfile("/f", 0o644, "")
		op := fileOp(1, a)
		change(a)
		return op
	}
	long := strings.Repeat("x", 5000)
	for name, c := range map[string]struct {
		op   *pb.Op
		says string
	}{
		"nil":            {nil, "empty"},
		"no op":          {&pb.Op{}, "cannot be run"},
		"source":         {&pb.Op{Op: &pb.Op_Source{}}, "cannot be run"},
		"exec nil":       {&pb.Op{Op: &pb.Op_Exec{}}, "no meta"},
		"no args":        {exec(func(x *pb.ExecOp) { x.Meta.Args = nil }), "no arguments"},
		"zero byte":      {exec(func(x *pb.ExecOp) { x.Meta.Args = []string{"a\x00"} }), "zero byte"},
		"huge args":      {exec(func(x *pb.ExecOp) { x.Meta.Args = []string{strings.Repeat("x", maxArgs+1)} }), "at most"},
		"no mounts":      {exec(func(x *pb.ExecOp) { x.Mounts = nil }), "0 mounts at /"},
		"two roots":      {mnt(&pb.Mount{Dest: "/", Output: none}), "2 mounts at /"},
		"hidden root":    {mnt(&pb.Mount{Dest: "/x/../", Output: none}), "root directory"},
		"input too high": {mnt(&pb.Mount{Dest: "/m", Input: 1, Output: none}), "input 1 of 1"},
		"input negative": {mnt(&pb.Mount{Dest: "/m", Input: -2, Output: none}), "input -2"},
		"output twice":   {mnt(&pb.Mount{Dest: "/m", Output: 0}), "given twice"},
		"output gap": {exec(func(x *pb.ExecOp) {
			x.Mounts = append(x.Mounts, &pb.Mount{Dest: "/m", Output: none})
			x.Mounts[0].Output = 1
		}), "want all"},
		"output too high":  {mnt(&pb.Mount{Dest: "/m", Output: 1 << 40}), "output"},
		"tmpfs negative":   {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: -1}}), "-1 bytes"},
		"tmpfs root":       {exec(func(x *pb.ExecOp) { x.Mounts[0].MountType = pb.MountType_TMPFS }), "invalid mount type"},
		"cache no options": {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: pb.MountType_CACHE}), "no options"},
		"cache sharing":    {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{Sharing: 7}}), "sharing 7"},
		"secret no id":     {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: pb.MountType_SECRET}), "secret ID missing"},
		"ssh no options":   {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: pb.MountType_SSH}), "no options"},
		"mount type":       {mnt(&pb.Mount{Dest: "/m", Input: none, Output: none, MountType: 42}), "42"},
		"long target":      {mnt(&pb.Mount{Dest: "/" + long, Output: none}), "bytes"},
		"network":          {exec(func(x *pb.ExecOp) { x.Network = 9 }), "network mode 9"},
		"security":         {exec(func(x *pb.ExecOp) { x.Security = 9 }), "security mode 9"},
		"secret env":       {exec(func(x *pb.ExecOp) { x.Secretenv = []*pb.SecretEnv{{ID: "a", Name: "B=C"}} }), "is no name"},
		"ulimit":           {exec(func(x *pb.ExecOp) { x.Meta.Ulimit = []*pb.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}} }), "above hard"},
		"ulimit name":      {exec(func(x *pb.ExecOp) { x.Meta.Ulimit = []*pb.Ulimit{{Name: "x"}} }), "unknown"},
		"host":             {exec(func(x *pb.ExecOp) { x.Meta.ExtraHosts = []*pb.HostIP{{Host: "a\nb", IP: "1.1.1.1"}} }), "no host name"},
		"file nil":         {&pb.Op{Op: &pb.Op_File{}}, "no actions"},
		"action nil":       {&pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{nil}}}}, "empty"},
		"no action":        {file(func(a *pb.FileAction) { a.Action = nil }), "unknown"},
		"action input":     {file(func(a *pb.FileAction) { a.Input = 2 }), "input 2 of 2"},
		"action loop":      {file(func(a *pb.FileAction) { a.Input = 1 }), "depends on itself"},
		"action no output": {file(func(a *pb.FileAction) { a.Output = none }), "no outputs"},
		"owner input":      {file(func(a *pb.FileAction) { a.GetMkfile().Owner = &pb.ChownOpt{User: byName("a", 5)} }), "input 5 of 2"},
		"owner nil": {file(func(a *pb.FileAction) {
			a.GetMkfile().Owner = &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{}}}
		}), "no name"},
		"time":              {file(func(a *pb.FileAction) { a.GetMkfile().Timestamp = -2 }), "timestamp"},
		"mode":              {fileOp(1, copyAction(0, &pb.FileActionCopy{ModeStr: "u+q"})), "u+q"},
		"merge":             {&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 3}}}}}, "input 3 of 0"},
		"merge nil":         {&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{nil}}}}, "empty"},
		"diff":              {&pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: -3}, Upper: &pb.UpperDiffInput{}}}}, "input -3"},
		"passthrough":       {&pb.Op{Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Outputs: []int64{0}}}}, "input 0 of 0"},
		"root part":         {exec(func(x *pb.ExecOp) { x.Mounts[0].Selector = "/sub" }), "cannot be the part"},
		"part of nothing":   {mnt(&pb.Mount{Dest: "/m", Selector: "/a", Input: none, Output: none}), "without input"},
		"secondary too low": {file(func(a *pb.FileAction) { a.SecondaryInput = -9 }), "secondary input -9"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Validate(c.op); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %q", err, c.says)
			}
		})
	}
	for _, op := range valid() {
		if err := Validate(op); err != nil {
			t.Errorf("%v: %v", op, err)
		}
	}
}

func valid() []*pb.Op {
	x := shell("true", secretMount("a", true), cacheMount("c", 0), &pb.Mount{Dest: "rel", Input: none, Output: none, MountType: pb.MountType_TMPFS})
	x.Meta.Ulimit = []*pb.Ulimit{{Name: "nofile", Soft: -1, Hard: -1}}
	return []*pb.Op{
		execOp(x),
		fileOp(2, mkfile("/a", 0o644, "x"), copyAction(1, &pb.FileActionCopy{Src: "/../x*", Dest: "y/", AllowWildcard: true, ModeStr: "go-w"}), rm("/x", true, true),
			mkdir("/d", 0o755, true), symlink("a", "/b")),
		{Inputs: make([]*pb.Input, 2), Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}},
		{Inputs: make([]*pb.Input, 1), Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: none}, Upper: &pb.UpperDiffInput{Input: 0}}}},
		{Inputs: make([]*pb.Input, 1), Op: &pb.Op_Passthrough{Passthrough: &pb.PassthroughOp{Id: "x", Outputs: []int64{0, 0}}}},
	}
}

// FuzzValidate sees that no op makes Validate, or the order of what passes it,
// go wrong.
func FuzzValidate(f *testing.F) {
	for _, op := range valid() {
		b, err := proto.Marshal(op)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		op := &pb.Op{}
		if proto.Unmarshal(b, op) != nil || Validate(op) != nil {
			return
		}
		x := op.GetFile()
		if x == nil {
			return
		}
		p, err := planFile(x.Actions, len(op.Inputs))
		if err != nil {
			t.Fatalf("valid op has no plan: %v", err)
		}
		done := map[int]bool{}
		for _, i := range p.order {
			if done[i] {
				t.Fatalf("action %d is planned twice", i)
			}
			done[i] = true
			for _, r := range append(p.needs(x.Actions[i]), p.reference(x.Actions[i].Input)) {
				if r >= 0 && !done[r] {
					t.Fatalf("action %d is planned before %d, which it needs", i, r)
				}
			}
		}
		for _, o := range p.outputs {
			if !done[o] {
				t.Fatalf("output action %d is not planned", o)
			}
		}
	})
}
