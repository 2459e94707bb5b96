package local

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buildd/buildd/worker/session/sessiontest"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// liar is a client that sends what it likes.
type liar struct {
	filesync.UnimplementedFileSyncServer
	say func(s filesync.FileSync_DiffCopyServer)
}

func (l *liar) Register(s *grpc.Server) { filesync.RegisterFileSyncServer(s, l) }

func (l *liar) DiffCopy(s filesync.FileSync_DiffCopyServer) error {
	l.say(s)
	for { // until the other side is done
		if p, err := s.Recv(); err != nil || p.Type == types.PACKET_FIN {
			return nil
		}
	}
}

func stat(path string, mode fs.FileMode, more ...func(*types.Stat)) *types.Packet {
	st := &types.Stat{Path: path, Mode: uint32(mode)}
	for _, f := range more {
		f(st)
	}
	return &types.Packet{Type: types.PACKET_STAT, Stat: st}
}

func link(to string) func(*types.Stat) { return func(s *types.Stat) { s.Linkname = to } }
func size(n int64) func(*types.Stat)   { return func(s *types.Stat) { s.Size = n } }
func uid(n uint32) func(*types.Stat)   { return func(s *types.Stat) { s.Uid = n } }
func data(id uint32, d string) *types.Packet {
	return &types.Packet{Type: types.PACKET_DATA, ID: id, Data: []byte(d)}
}

var end = &types.Packet{Type: types.PACKET_STAT}

func TestHostile(t *testing.T) {
	outside := t.TempDir()
	for name, c := range map[string]struct {
		packets []*types.Packet
		want    string
	}{
		"parent":               {[]*types.Packet{stat("../x", 0o644)}, "bad path"},
		"inner parent":         {[]*types.Packet{stat("a", fs.ModeDir), stat("a/../../x", 0o644)}, "bad path"},
		"absolute":             {[]*types.Packet{stat(outside+"/x", 0o644)}, "bad path"},
		"the root":             {[]*types.Packet{stat(".", fs.ModeDir)}, `path "."`},
		"no name":              {[]*types.Packet{stat("", fs.ModeDir)}, "bad path"},
		"zero byte":            {[]*types.Packet{stat("a\x00b", 0o644)}, "path"},
		"through a link":       {[]*types.Packet{stat("l", fs.ModeSymlink|0o777, link(outside)), stat("l/x", 0o644)}, "bad path"},
		"twice":                {[]*types.Packet{stat("a", 0o644), stat("a", fs.ModeSymlink, link(outside))}, "bad path"},
		"without a directory":  {[]*types.Packet{stat("a/b", 0o644)}, "bad path"},
		"out of order":         {[]*types.Packet{stat("b", 0o644), stat("a", 0o644)}, "bad path"},
		"whiteout":             {[]*types.Packet{stat("w", fs.ModeDevice|fs.ModeCharDevice)}, "is a device"},
		"disk":                 {[]*types.Packet{stat("d", fs.ModeDevice, func(s *types.Stat) { s.Devmajor = 8 })}, "is a device"},
		"hard link to nothing": {[]*types.Packet{stat("h", 0o644, link("/etc/passwd"))}, "which is no file before it"},
		"hard link to a link":  {[]*types.Packet{stat("a", fs.ModeSymlink, link("/etc/passwd")), stat("h", 0o644, link("a"))}, "which is no file before it"},
		"hard link outside":    {[]*types.Packet{stat("h", 0o644, link("../../x"))}, "which is no file before it"},
		"empty link":           {[]*types.Packet{stat("l", fs.ModeSymlink)}, "leads to"},
		"negative size":        {[]*types.Packet{stat("a", 0o644, size(-1))}, "size -1"},
		"unasked data":         {[]*types.Packet{stat("a", fs.ModeDir), end, data(7, "x")}, ""},
		"data of a directory":  {[]*types.Packet{stat("a", fs.ModeDir), data(0, "x")}, "not asked for"},
		"data after the end":   {[]*types.Packet{stat("a", 0o644), stat("b", 0o644), data(0, "x"), data(0, ""), data(0, "y")}, "not asked for"},
		"file after the end":   {[]*types.Packet{stat("a", 0o644), end, stat("b", 0o644)}, "after the end"},
		"unreadable":           {[]*types.Packet{stat("a", 0o644, size(5)), end, data(0, "")}, "could not read"},
		"an error":             {[]*types.Packet{{Type: types.PACKET_ERR, Data: []byte("disk on fire")}}, "disk on fire"},
		"a request":            {[]*types.Packet{{Type: types.PACKET_REQ}}, "packet of type"},
		"a long name":          {[]*types.Packet{stat(strings.Repeat("x", 300), fs.ModeDir), end}, "file name too long"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.client = sessiontest.Client(t, &liar{say: func(s filesync.FileSync_DiffCopyServer) {
				for _, p := range c.packets {
					if s.Send(p) != nil {
						return
					}
				}
				if c.want == "" {
					s.Send(&types.Packet{Type: types.PACKET_FIN})
				}
			}})
			if c.want == "" { // harmless
				return
			}
			p, err := f.src.Pin(t.Context(), f.client, source.Request{Identifier: "local://context"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v, want %q", p, err, c.want)
			}
			leftNothing(t, f)
		})
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

// A client that claims another mode and owner for a hard link must not change
// the file, which an earlier tree shares.
func TestHardLinkLies(t *testing.T) {
	f := newFixture(t)
	f.write(t, "a", "content")
	first := f.pin(t)
	st, err := os.Lstat(filepath.Join(f.dir, "a"))
	must(t, err)
	same := func(s *types.Stat) { s.Size, s.ModTime = st.Size(), st.ModTime().UnixNano() }
	f.client = sessiontest.Client(t, &liar{say: func(s filesync.FileSync_DiffCopyServer) {
		for _, p := range []*types.Packet{stat("a", 0o644, same), stat("b", 0o4777, link("a"), uid(1000)), end, {Type: types.PACKET_FIN}} {
			s.Send(p)
		}
		for {
			if p, err := s.Recv(); err != nil || p.Type == types.PACKET_FIN {
				return
			}
		}
	}})
	second := f.pin(t)
	for _, tr := range []source.Pin{first, second} {
		for name, what := range f.files(t, tr.Tree) {
			if what != "100644 content" {
				t.Errorf("%s is %s", name, what)
			}
		}
	}
	v, err := f.trees.Files(t.Context(), second.Tree)
	must(t, err)
	host, err := v.HostPath("/b")
	must(t, err)
	var b unix.Stat_t
	must(t, unix.Lstat(host, &b))
	if b.Nlink < 3 {
		t.Errorf("%d links: nothing was shared", b.Nlink)
	}
}
