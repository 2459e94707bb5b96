package op

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/moby/sys/user"
)

// findUser looks spec up in the contents of passwd and group.
func findUser(spec string, passwd, group []byte) (execUser, error) {
	if spec == "" {
		spec = "0"
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return execUser{}, fmt.Errorf("user %q: %w", spec, err)
	}
	if u.Uid < 0 || u.Gid < 0 || int64(u.Uid) >= math.MaxUint32 || int64(u.Gid) >= math.MaxUint32 {
		return execUser{}, fmt.Errorf("user %q: IDs %d:%d are out of range", spec, u.Uid, u.Gid)
	}
	out := execUser{uid: uint32(u.Uid), gid: uint32(u.Gid), home: u.Home}
	// The primary group counts as an additional one too, so that setgroups does
	// not take access away that the user has.
	out.groups = []uint32{out.gid}
	for _, g := range u.Sgids {
		if g >= 0 && int64(g) < math.MaxUint32 && !slices.Contains(out.groups, uint32(g)) {
			out.groups = append(out.groups, uint32(g))
		}
	}
	if out.home == "" {
		out.home = "/"
	}
	return out, nil
}
