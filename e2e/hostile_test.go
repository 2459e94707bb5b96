package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// entry is one of a tar, with its text if it is a file.
type entry struct {
	tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o666, Size: int64(len(text))}, text}
}

func link(kind byte, name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Linkname: to, Mode: 0o777}, ""}
}

func hostileTar(t *testing.T, es ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := newTar(t, &b, es...).Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newTar begins a tar; the text of the last entry may be missing.
func newTar(t *testing.T, to io.Writer, es ...entry) *tar.Writer {
	t.Helper()
	w := tar.NewWriter(to)
	for _, e := range es {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// giantRecord is a tar with a PAX header that is larger than writers allow.
func giantRecord(t *testing.T, size int) []byte {
	t.Helper()
	record := fmt.Sprintf(" comment=%s\n", strings.Repeat("x", size))
	record = fmt.Sprintf("%d", len(record)+len(fmt.Sprint(len(record)+7))) + record
	b := hostileTar(t, file("PaxHeaders/x", record), file("x", "x"))
	b[156] = tar.TypeXHeader
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// hostile is a tar, with what the error says of it as an archive of ADD and as a
// layer. Without that it is taken for what it can mean inside the root file
// system, or refused.
type hostile struct {
	tar            []byte
	archive, layer string
}

// hostileTars aim at the canary.
func hostileTars(t *testing.T, canary string) map[string]hostile {
	up := strings.Repeat("../", 40) + canary[1:]
	bird := canary + "/bird"
	dev := func(kind byte, name string, major, minor int64) entry {
		return entry{tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: major, Devminor: minor}, ""}
	}
	pax := func(k, v string) entry {
		e := file("pax", "x")
		e.PAXRecords = map[string]string{k: v}
		return e
	}
	many := make([]entry, 0, 5000)
	for i := range cap(many) {
		many = append(many, file("same", fmt.Sprint(i)))
	}
	truncated := hostileTar(t, file("a", strings.Repeat("a", 100000)))
	garbage := hostileTar(t, file("a", "a"), file("b", "b"))
	copy(garbage[1024:], bytes.Repeat([]byte{0xff}, 512))
	return map[string]hostile{
		"absolute path":                    {hostileTar(t, file(canary+"/absolute", "x")), "", ""},
		"dot dot":                          {hostileTar(t, file(up+"/up", "x")), "leads out of the archive", ""},
		"dot dot in the middle":            {hostileTar(t, file("a/b/../../../"+up+"/up", "x")), "leads out of the archive", ""},
		"symbolic link, then through it":   {hostileTar(t, link(tar.TypeSymlink, "door", canary), file("door/through", "x")), "", ""},
		"relative link, then through it":   {hostileTar(t, link(tar.TypeSymlink, "door", up), file("door/through", "x")), "", ""},
		"link to a file, then over it":     {hostileTar(t, link(tar.TypeSymlink, "door", bird), file("door", "dead")), "", ""},
		"directory over a link":            {hostileTar(t, link(tar.TypeSymlink, "door", canary), entry{tar.Header{Name: "door", Typeflag: tar.TypeDir, Mode: 0o700}, ""}), "", ""},
		"hard link out":                    {hostileTar(t, link(tar.TypeLink, "hard", bird)), "hard", "hard"},
		"hard link up":                     {hostileTar(t, link(tar.TypeLink, "hard", up+"/bird")), "hard", "hard"},
		"hard link through a link":         {hostileTar(t, link(tar.TypeSymlink, "door", canary), link(tar.TypeLink, "hard", "door/bird"), file("hard", "dead")), "hard", "hard"},
		"hard link to itself":              {hostileTar(t, link(tar.TypeLink, "hard", "hard")), "hard", "hard"},
		"hard link to a directory":         {hostileTar(t, entry{tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o700}, ""}, link(tar.TypeLink, "hard", "d")), "hard", "hard"},
		"link to a link to out":            {hostileTar(t, link(tar.TypeSymlink, "a", canary), link(tar.TypeSymlink, "b", "a"), file("b/through", "x")), "", ""},
		"links in a circle":                {hostileTar(t, link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", "a"), file("a/x", "x")), "", ""},
		"device nodes":                     {hostileTar(t, dev(tar.TypeChar, "mem", 1, 1), dev(tar.TypeBlock, "disk", 8, 0), dev(tar.TypeFifo, "fifo", 0, 0)), "", ""},
		"node of a whiteout":               {hostileTar(t, dev(tar.TypeChar, "white", 0, 0)), "white", ""},
		"whiteout of dot dot":              {hostileTar(t, file(".wh...", "")), "", ".wh."},
		"giant PAX record":                 {giantRecord(t, 3<<20), "", ""},
		"attribute of the overlay":         {hostileTar(t, pax("SCHILY.xattr.trusted.overlay.redirect", canary)), "", ""},
		"giant attribute":                  {hostileTar(t, pax("SCHILY.xattr.user.big", strings.Repeat("x", 1<<18))), "", ""},
		"very long name":                   {hostileTar(t, file(strings.Repeat("x", 5000), "x")), "", ""},
		"very deep name":                   {hostileTar(t, file(strings.Repeat("d/", 3000)+"x", "x")), "", ""},
		"five thousand times the same":     {hostileTar(t, many...), "", ""},
		"file, then directory of its name": {hostileTar(t, file("f", "x"), file("f/g", "x")), "", ""},
		"proc":                             {hostileTar(t, link(tar.TypeSymlink, "p", "/proc/self/root"+canary), file("p/x", "x")), "", ""},
		"truncated":                        {truncated[:50000], "unexpected EOF", "unexpected EOF"},
		"garbage in the middle":            {garbage, "header", "header"},
		"giant owner":                      {hostileTar(t, entry{tar.Header{Name: "n", Typeflag: tar.TypeReg, Uid: math.MaxInt32, Gid: math.MaxInt32, Format: tar.FormatPAX}, ""}), "", ""},
	}
}

// outcome is that of a build that may fail or not: it must say what is wanted if
// it does.
func (d *daemon) outcome(want string, args ...string) {
	d.t.Helper()
	r := d.try(d.t.Context(), args...)
	switch {
	case r.Exit == 0 && want != "":
		d.t.Errorf("buildctl %s succeeded, want an error with %q", strings.Join(args, " "), want)
	case r.Exit != 0 && !strings.Contains(r.Err, want):
		d.t.Errorf("the error does not say %q:\n%s", want, r.Err)
	}
	if r.Exit != 0 && !strings.Contains(r.Err, "Dockerfile:2\n") {
		d.t.Errorf("the error does not name the line:\n%s", r.Err)
	}
	if strings.Contains(r.Err, d.Root) {
		d.t.Errorf("the error shows the daemon's directories:\n%s", r.Err)
	}
}

func TestHostileArchives(t *testing.T) {
	c := newCanary(t)
	d := startWithBusybox(t)
	for name, h := range hostileTars(t, c.dir) {
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			d.outcome(h.archive, "build", "--progress=plain", buildContext(t, map[string]string{
				"Dockerfile": "FROM busybox:latest\nADD hostile.tar /\nRUN true\n", "hostile.tar": string(h.tar),
			}))
			c.check(t)
		})
	}
	d.alive()
}

// TestHostileContexts sends the archives as the build context itself.
func TestHostileContexts(t *testing.T) {
	c := newCanary(t)
	d := startWithBusybox(t)
	for name, h := range hostileTars(t, c.dir) {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := newTar(t, &b, file("Dockerfile", "FROM busybox:latest\nCOPY . /x/\nRUN true\n")).Flush(); err != nil {
				t.Fatal(err)
			}
			b.Write(h.tar) // goes on where the first has not ended
			r := d.input(t.Context(), b.String(), "build", "--progress=plain", "-")
			if r.Exit == 0 && h.archive != "" {
				t.Errorf("succeeded, want an error with %q", h.archive)
			}
			if r.Exit != 0 && !strings.Contains(r.Err, h.archive) {
				t.Errorf("the error does not say %q:\n%s", h.archive, r.Err)
			}
			if strings.Contains(r.Err, d.Root) {
				t.Errorf("the error shows the daemon's directories:\n%s", r.Err)
			}
			c.check(t)
		})
	}
	d.alive()
}

// pushImage makes an image of layers and pushes it.
func pushImage(t *testing.T, ref string, layers ...[]byte) {
	t.Helper()
	dir := t.TempDir()
	put := func(mediaType string, b []byte) ocispecs.Descriptor {
		desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		p := filepath.Join(dir, "blobs/sha256", desc.Digest.Encoded())
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	putJSON := func(mediaType string, v any) ocispecs.Descriptor {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return put(mediaType, b)
	}
	m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	config := ocispecs.Image{Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispecs.RootFS{Type: "layers"}}
	for _, l := range layers {
		m.Layers = append(m.Layers, put(ocispecs.MediaTypeImageLayerGzip, []byte(zipped(t, string(l)))))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
	}
	m.Config = putJSON(ocispecs.MediaTypeImageConfig, config)
	desc := putJSON(ocispecs.MediaTypeImageManifest, m)
	desc.Annotations = map[string]string{ocispecs.AnnotationRefName: "x"}
	b, err := json.Marshal(ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispecs.Descriptor{desc}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "index.json", string(b))
	write(t, dir, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	tool(t, "skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", "oci:"+dir+":x", "docker://"+ref)
}

func TestHostileLayers(t *testing.T) {
	c := newCanary(t)
	reg := startRegistry(t)
	d := startWithBusybox(t)
	base, err := os.ReadFile(busyboxTar(t))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, h := range hostileTars(t, c.dir) {
		n++
		ref := fmt.Sprintf("%s/hostile/image%d:1", reg, n)
		t.Run(name, func(t *testing.T) {
			d := d.with(t)
			pushImage(t, ref, base, h.tar)
			d.outcome(h.layer, "build", "--progress=plain", buildContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nRUN true\n"}))
			c.check(t)
		})
	}
	d.alive()
}

// definition makes one of ops, each an input of the last.
func definition(t *testing.T, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	var last digest.Digest
	for _, o := range append(ops, &pb.Op{Inputs: []*pb.Input{{}}}) {
		if len(o.Inputs) > 0 && o.Inputs[0].Digest == "" {
			o.Inputs[0].Digest = string(last)
		}
		b, err := o.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		last = digest.FromBytes(b)
		def.Def = append(def.Def, b)
	}
	return def
}

func busyboxOp() *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://docker.io/library/busybox:latest"}}, Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}}
}

func execOp(f func(*pb.ExecOp)) *pb.Op {
	x := &pb.ExecOp{Meta: &pb.Meta{Args: []string{"true"}, Cwd: "/"}, Mounts: []*pb.Mount{{Dest: "/", Input: 0, Output: 0}}}
	f(x)
	return &pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Exec{Exec: x}, Platform: &pb.Platform{OS: "linux", Architecture: "amd64"}}
}

func fileOp(as ...*pb.FileAction) *pb.Op {
	return &pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_File{File: &pb.FileOp{Actions: as}}}
}

func mkfile(path string) *pb.FileAction {
	return &pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: path, Mode: 0o644, Data: []byte("x")}}}
}

func mount(f func(*pb.Mount)) *pb.Op {
	return execOp(func(x *pb.ExecOp) {
		m := &pb.Mount{Dest: "/m", Input: 0, Output: -1}
		f(m)
		x.Mounts = append(x.Mounts, m)
	})
}

// hostileDefinitions maps names to graphs and what the error must say; "" where
// the graph may mean something harmless.
func hostileDefinitions(t *testing.T, canary string) map[string]struct {
	def  *pb.Definition
	want string
} {
	type c = struct {
		def  *pb.Definition
		want string
	}
	up := strings.Repeat("../", 40) + canary[1:]
	def := func(ops ...*pb.Op) *pb.Definition { return definition(t, append([]*pb.Op{busyboxOp()}, ops...)...) }
	source := func(id string, attrs ...string) *pb.Definition {
		s := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
		for i := 0; i < len(attrs); i += 2 {
			s.Attrs[attrs[i]] = attrs[i+1]
		}
		return definition(t, &pb.Op{Op: &pb.Op_Source{Source: s}})
	}
	index := func(n int64) *pb.Definition {
		d := def()
		last := &pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(d.Def[0])), Index: n}}}
		b, err := last.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		d.Def[1] = b
		return d
	}
	self := sha256.Sum256([]byte("no op has this digest"))
	wide := &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}
	for range 100000 {
		wide.Inputs = append(wide.Inputs, &pb.Input{})
		wide.GetMerge().Inputs = append(wide.GetMerge().Inputs, &pb.MergeInput{Input: 0})
	}
	b, err := busyboxOp().MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range wide.Inputs {
		in.Digest = string(digest.FromBytes(b))
	}
	deep := []*pb.Op{}
	for i := range 20000 {
		deep = append(deep, fileOp(&pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: fmt.Sprintf("/nothing/%d", i), Mode: 0o755}}}))
	}
	actions := make([]*pb.FileAction, 0, 3000)
	for i := range cap(actions) {
		a := mkfile("/x")
		if i > 0 {
			a.Input = int64(i)
		}
		a.Output = -1
		actions = append(actions, a)
	}
	actions = append(actions, mkfile("/missing/x"))
	return map[string]c{
		"nothing":                        {&pb.Definition{}, ""},
		"no result":                      {&pb.Definition{Def: [][]byte{b}}, "result"},
		"garbage":                        {&pb.Definition{Def: [][]byte{{0xff, 0xff, 0xff}, {1, 2, 3}}}, "op 0"},
		"empty op":                       {def(&pb.Op{Inputs: []*pb.Input{{}}}), "op"},
		"unknown input":                  {def(&pb.Op{Inputs: []*pb.Input{{Digest: fmt.Sprintf("sha256:%x", self)}}, Op: execOp(func(*pb.ExecOp) {}).Op}), "not in the definition"},
		"input that is no digest":        {def(&pb.Op{Inputs: []*pb.Input{{Digest: "../../etc"}}, Op: execOp(func(*pb.ExecOp) {}).Op}), "not in the definition"},
		"output out of range":            {index(7), "output 7"},
		"negative output":                {index(-1), "output -1"},
		"giant output":                   {index(math.MaxInt64), "output"},
		"a hundred thousand inputs":      {definition(t, busyboxOp(), wide), ""},
		"twenty thousand steps":          {def(deep...), "nothing"},
		"three thousand actions":         {def(fileOp(actions...)), "missing"},
		"exec without meta":              {def(execOp(func(x *pb.ExecOp) { x.Meta = nil })), "meta"},
		"exec without arguments":         {def(execOp(func(x *pb.ExecOp) { x.Meta.Args = nil })), "arg"},
		"exec without mounts":            {def(execOp(func(x *pb.ExecOp) { x.Mounts = nil })), "mount"},
		"no root":                        {def(execOp(func(x *pb.ExecOp) { x.Mounts[0].Dest = "/x" })), "/"},
		"mount of an input that is not":  {def(mount(func(m *pb.Mount) { m.Input = 9 })), "input"},
		"mount of a negative input":      {def(mount(func(m *pb.Mount) { m.Input = -7 })), "input"},
		"mount to an output that is not": {def(mount(func(m *pb.Mount) { m.Output = 1 << 40 })), "output"},
		"two mounts to one output":       {def(mount(func(m *pb.Mount) { m.Output = 0 })), "output"},
		"mount up":                       {def(mount(func(m *pb.Mount) { m.Dest = up })), ""},
		"mount at nothing":               {def(mount(func(m *pb.Mount) { m.Dest = "" })), ""},
		"mount of what lies up":          {def(mount(func(m *pb.Mount) { m.Selector = up })), ""},
		"mount over proc":                {def(mount(func(m *pb.Mount) { m.Dest = "/proc" })), ""},
		"unknown type of mount":          {def(mount(func(m *pb.Mount) { m.MountType = 77 })), "77"},
		"cache without options":          {def(mount(func(m *pb.Mount) { m.MountType, m.Input = pb.MountType_CACHE, -1 })), ""},
		"cache that is a path":           {def(mount(func(m *pb.Mount) { m.MountType, m.Input, m.CacheOpt = pb.MountType_CACHE, -1, &pb.CacheOpt{ID: up} })), ""},
		"cache with unknown sharing": {def(mount(func(m *pb.Mount) {
			m.MountType, m.Input, m.CacheOpt = pb.MountType_CACHE, -1, &pb.CacheOpt{ID: "x", Sharing: 55}
		})), "55"},
		"secret without options":          {def(mount(func(m *pb.Mount) { m.MountType, m.Input = pb.MountType_SECRET, -1 })), ""},
		"ssh without options":             {def(mount(func(m *pb.Mount) { m.MountType, m.Input = pb.MountType_SSH, -1 })), ""},
		"tmpfs of negative size":          {def(mount(func(m *pb.Mount) { m.MountType, m.Input, m.TmpfsOpt = pb.MountType_TMPFS, -1, &pb.TmpfsOpt{Size: -5} })), "-5"},
		"environment without =":           {def(execOp(func(x *pb.ExecOp) { x.Meta.Env = []string{"A", "=", "\x00=x"} })), ""},
		"argument with NUL":               {def(execOp(func(x *pb.ExecOp) { x.Meta.Args = []string{"echo", "a\x00b"} })), ""},
		"relative directory":              {def(execOp(func(x *pb.ExecOp) { x.Meta.Cwd = up })), ""},
		"host name with a slash":          {def(execOp(func(x *pb.ExecOp) { x.Meta.Hostname = strings.Repeat("../x", 99) })), ""},
		"extra host with a line":          {def(execOp(func(x *pb.ExecOp) { x.Meta.ExtraHosts = []*pb.HostIP{{Host: "a\nb", IP: "x"}} })), ""},
		"unknown limit":                   {def(execOp(func(x *pb.ExecOp) { x.Meta.Ulimit = []*pb.Ulimit{{Name: "nothing", Soft: 1, Hard: -9}} })), "nothing"},
		"control group up":                {def(execOp(func(x *pb.ExecOp) { x.Meta.CgroupParent = "../../../up" })), ""},
		"unknown network":                 {def(execOp(func(x *pb.ExecOp) { x.Network = 9 })), "9"},
		"unknown security":                {def(execOp(func(x *pb.ExecOp) { x.Security = 9 })), "9"},
		"insecure":                        {def(execOp(func(x *pb.ExecOp) { x.Security = pb.SecurityMode_INSECURE })), "not allowed"},
		"the host's network":              {def(execOp(func(x *pb.ExecOp) { x.Network = pb.NetMode_HOST })), "not allowed"},
		"a device":                        {def(execOp(func(x *pb.ExecOp) { x.CdiDevices = []*pb.CDIDevice{{Name: "a/b=c"}} })), "a/b=c"},
		"file up":                         {def(fileOp(mkfile(up + "/made"))), ""},
		"file over the root":              {def(fileOp(mkfile("/"))), ""},
		"file action without inputs":      {def(fileOp(&pb.FileAction{Input: 8, SecondaryInput: -1, Output: 0, Action: mkfile("/x").Action})), "input"},
		"file action of nothing":          {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0})), "action"},
		"file action with itself":         {def(fileOp(&pb.FileAction{Input: 1, SecondaryInput: -1, Output: 0, Action: mkfile("/x").Action})), "itself"},
		"file actions to one output":      {def(fileOp(mkfile("/x"), mkfile("/y"))), "output"},
		"no file action":                  {def(fileOp()), "action"},
		"giant mode":                      {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Mode: -1}}})), ""},
		"copy from up":                    {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: up + "/bird", Dest: "/bird"}}})), "not found"},
		"copy to up":                      {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/bin/busybox", Dest: up + "/copied", CreateDestPath: true}}})), ""},
		"removal of what lies up":         {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: up, AllowNotFound: true}}})), ""},
		"pattern that is none":            {def(fileOp(&pb.FileAction{Input: 0, SecondaryInput: 0, Output: 0, Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/[", Dest: "/x", AllowWildcard: true, IncludePatterns: []string{"["}}}})), ""},
		"merge of nothing":                {def(&pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}), ""},
		"merge of what is not":            {def(&pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 4}, {Input: -3}}}}}), "input"},
		"diff of what is not":             {def(&pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: 3}, Upper: &pb.UpperDiffInput{Input: 0}}}}), "input"},
		"diff of nothing":                 {def(&pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}), ""},
		"source of no kind":               {source("nothing"), "nothing"},
		"source of unknown kind":          {source("gopher://x"), "gopher"},
		"image of no name":                {source("docker-image://"), ""},
		"image that is a path":            {source("docker-image://../../../etc"), ""},
		"image with a giant platform":     {definition(t, &pb.Op{Op: busyboxOp().Op, Platform: &pb.Platform{OS: strings.Repeat("x", 1<<20), Architecture: "/"}}), ""},
		"local directory without session": {source("local://../../etc", "local.sharedkeyhint", up), "session"},
		"git with an option":              {source("git://--upload-pack=touch%20"+canary+"/x", "git.fullurl", "--upload-pack=touch "+canary+"/x"), ""},
		"git with a command":              {source("git://x", "git.fullurl", "ext::sh -c touch% "+canary+"/x"), ""},
		"git of a file":                   {source("git://x", "git.fullurl", "file://"+canary), ""},
		"HTTP of a file":                  {source("http://127.0.0.1:9/../../x", "http.filename", up+"/x"), ""},
		"HTTP of nothing":                 {source("http://"), ""},
		"layout without store":            {source("oci-layout://x/y@sha256:"+strings.Repeat("0", 64), "oci.store", up), ""},
	}
}

func TestHostileDefinitions(t *testing.T) {
	c := newCanary(t)
	d := startWithBusybox(t)
	ctl := d.controlClient()
	n := 0
	for name, h := range hostileDefinitions(t, c.dir) {
		n++
		ref := fmt.Sprintf("hostile%d", n)
		t.Run(name, func(t *testing.T) {
			_, err := ctl.Solve(t.Context(), &control.SolveRequest{Ref: ref, Definition: h.def})
			switch {
			case err == nil && h.want != "":
				t.Errorf("succeeded, want an error with %q", h.want)
			case err == nil:
			case !strings.Contains(err.Error(), h.want):
				t.Errorf("the error does not say %q: %v", h.want, err)
			case status.Code(err) == codes.Internal:
				t.Errorf("internal error: %v", err)
			case strings.Contains(err.Error(), d.Root):
				t.Errorf("the error shows the daemon's directories: %v", err)
			}
			if err != nil {
				t.Logf("%.300v", err)
			}
			c.check(t)
		})
	}
	d.alive()
}
