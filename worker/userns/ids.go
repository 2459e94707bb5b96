package userns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

// span is a range of IDs that a user may use; see subuid(5).
type span struct{ start, count uint64 }

// ranges are the IDs beside the user's own that are mapped.
type ranges struct {
	uids, gids       []span
	newuid, newgid   string // programs
	ownUID, ownGID   int
	uidFile, gidFile string
}

// mapError says why IDs beside the user's own could not be mapped.
type mapError struct{ err error }

func (e *mapError) Error() string { return e.err.Error() }

// enough is how many IDs images expect to exist: "nobody" is 65534.
const enough = 65535

// subordinate looks for what maps more than one ID. The error says what is
// missing.
func subordinate() (*ranges, error) {
	r := &ranges{ownUID: os.Geteuid(), ownGID: os.Getegid(), uidFile: "/etc/subuid", gidFile: "/etc/subgid"}
	return r, r.find()
}

func (r *ranges) find() (err error) {
	if r.newuid, err = exec.LookPath("newuidmap"); err != nil {
		return fmt.Errorf("newuidmap is not installed: %w", err)
	}
	if r.newgid, err = exec.LookPath("newgidmap"); err != nil {
		return fmt.Errorf("newgidmap is not installed: %w", err)
	}
	name := ""
	if u, err := user.LookupId(strconv.Itoa(r.ownUID)); err == nil {
		name = u.Username
	}
	if r.uids, err = readSpans(r.uidFile, name, r.ownUID); err != nil {
		return err
	}
	// Groups are a user's too: see subgid(5).
	r.gids, err = readSpans(r.gidFile, name, r.ownUID)
	return err
}

func readSpans(file, name string, uid int) ([]span, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	spans, err := parseSpans(f, name, uid)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(spans) == 0 {
		who := strconv.Itoa(uid)
		if name != "" {
			who = name
		}
		return nil, fmt.Errorf("%s has no line for the user: want one such as %s:100000:65536", file, who)
	}
	return spans, nil
}

// parseSpans reads lines of NAME:START:COUNT that are the user's, whom the file
// knows by name or number.
func parseSpans(in io.Reader, name string, uid int) ([]span, error) {
	var out []span
	s := bufio.NewScanner(in)
	for s.Scan() {
		fields := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(fields) != 3 || fields[0] == "" || fields[0] != name && fields[0] != strconv.Itoa(uid) {
			continue
		}
		start, err1 := strconv.ParseUint(fields[1], 10, 32)
		count, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err1 != nil || err2 != nil || count == 0 {
			continue // newuidmap skips such lines as well
		}
		out = append(out, span{start, count})
	}
	return out, s.Err()
}

// least is the number of users or of groups, whichever is less.
func (r *ranges) least() uint64 {
	sum := func(spans []span) (n uint64) {
		for _, s := range spans {
			n += s.count
		}
		return n
	}
	return min(sum(r.uids), sum(r.gids))
}

// assign maps root to the user, and the IDs from 1 on to the ranges.
func (r *ranges) assign(pid int) error {
	for _, m := range []struct {
		program string
		own     int
		spans   []span
	}{{r.newuid, r.ownUID, r.uids}, {r.newgid, r.ownGID, r.gids}} {
		args := append([]string{strconv.Itoa(pid)}, mapping(m.own, m.spans)...)
		if out, err := exec.Command(m.program, args...).CombinedOutput(); err != nil {
			return &mapError{fmt.Errorf("%s %s: %w: %s", m.program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))}
		}
	}
	return nil
}

// mapping is what newuidmap takes: triples of first ID inside, outside, count.
func mapping(own int, spans []span) []string {
	out := []string{"0", strconv.Itoa(own), "1"}
	next := uint64(1)
	for _, s := range spans {
		out = append(out, fmt.Sprint(next), fmt.Sprint(s.start), fmt.Sprint(s.count))
		next += s.count
	}
	return out
}

// assignOwn maps root to the user, which everybody may do who renounces to set
// groups.
func assignOwn(pid int) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, f := range [][2]string{
		{"setgroups", "deny"},
		{"uid_map", fmt.Sprintf("0 %d 1\n", os.Geteuid())},
		{"gid_map", fmt.Sprintf("0 %d 1\n", os.Getegid())},
	} {
		if err := os.WriteFile(dir+f[0], []byte(f[1]), 0); err != nil {
			return fmt.Errorf("map the user's ID: %w%s", err, advice())
		}
	}
	return nil
}
