package explain

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/buildd/buildd/cache"
	explainv1 "github.com/buildd/buildd/proto/buildd/explain/v1"
	"github.com/buildd/buildd/solver"
	"github.com/buildd/buildd/solver/llb"
	"github.com/buildd/buildd/worker"
	"github.com/moby/buildkit/solver/pb"
)

// part is one named part of what a step's outcome depends on.
type part struct {
	Kind  explainv1.Kind `json:"k"`
	Name  string         `json:"n"`
	Value string         `json:"v,omitempty"` // as it may be shown
	// Sum is the digest of the value where Value is not all of it.
	Sum string `json:"s,omitempty"`
	// Hidden says that the value is shown to nobody.
	Hidden bool `json:"h,omitempty"`
}

// same tells whether two parts of one name have the same value.
func (p part) same(q part) bool { return p.Value == q.Value && p.Sum == q.Sum }

const (
	// maxValue bounds what is kept of a value, in bytes.
	maxValue   = 1 << 10
	maxCommand = 8 << 10

	partDefinition = "definition"
	partPin        = "pinned to"
	partSource     = "source"
	partCommand    = "command"
	partAction     = "action "
)

// secretName matches variables that are called like a secret.
var (
	secretName = regexp.MustCompile(`(?i)passw(or)?d|pword|secret|token|credential|api_?key|private_?key|(?:_|^)(?:auth|key|pwd)(?:_|$)`)
	publicName = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|path|version)(?:_|$)`)
)

// userinfo matches the credentials in a URL.
var userinfo = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/@\s"']+@`)

// redact takes the credentials out of URLs in a text.
func redact(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	return userinfo.ReplaceAllString(s, "${1}xxxxx@")
}

// newPart makes a part whose value may be long or have credentials in it.
func newPart(kind explainv1.Kind, name, value string, limit int) part {
	p := part{Kind: kind, Name: name, Value: redact(strings.ToValidUTF8(value, "\uFFFD"))}
	if len(p.Value) > limit {
		p.Value = strings.ToValidUTF8(p.Value[:limit], "") + "..."
	}
	if p.Value != value {
		p.Sum = sum(value)
	}
	return p
}

func sum(value string) string { return cache.Hash("explain", []byte(value)).String()[:32] }

// parts returns what the outcome of an op depends on, its inputs apart.
func parts(o *llb.Op) []part {
	var l partList
	switch x := o.Def.Op.(type) {
	case *pb.Op_Source:
		return sourceParts(o, x.Source)
	case *pb.Op_Exec:
		l.exec(x.Exec)
		l.option("platform", platform(o.Def.Platform))
	case *pb.Op_File:
		for i, a := range x.File.Actions {
			l.add(explainv1.Kind_KIND_COMMAND, fmt.Sprint(partAction, i+1), action(a))
		}
	}
	l.option(partDefinition, o.Definition().String())
	return l
}

func platform(p *pb.Platform) string {
	if p == nil {
		return ""
	}
	return strings.TrimSuffix(path.Join(p.OS, p.Architecture, p.Variant), "/")
}

type partList []part

func (l *partList) add(kind explainv1.Kind, name, value string) {
	limit := maxValue
	if kind == explainv1.Kind_KIND_COMMAND {
		limit = maxCommand
	}
	*l = append(*l, newPart(kind, name, value, limit))
}

// option adds a part that there is not if it has no value.
func (l *partList) option(name, value string) {
	if value != "" {
		l.add(explainv1.Kind_KIND_OPTION, name, value)
	}
}

func (l *partList) variable(name, value string) {
	if secretName.MatchString(name) && !publicName.MatchString(name) {
		*l = append(*l, part{Kind: explainv1.Kind_KIND_VARIABLE, Name: name, Sum: sum(value), Hidden: true})
		return
	}
	l.add(explainv1.Kind_KIND_VARIABLE, name, value)
}

func (l *partList) exec(x *pb.ExecOp) {
	m := x.Meta
	shell, command := splitShell(m.Args)
	l.add(explainv1.Kind_KIND_COMMAND, partCommand, command)
	l.option("shell", shell)
	for _, e := range m.Env {
		k, v, _ := strings.Cut(e, "=")
		l.variable(k, v)
	}
	l.option("user", m.User)
	l.option("working directory", m.Cwd)
	l.option("host name", m.Hostname)
	for _, h := range m.ExtraHosts {
		l.option("host "+h.Host, h.IP)
	}
	for _, u := range m.Ulimit {
		l.option("ulimit "+u.Name, fmt.Sprintf("%d:%d", u.Soft, u.Hard))
	}
	if x.Network != pb.NetMode_UNSET {
		l.option("network", strings.ToLower(x.Network.String()))
	}
	if x.Security != pb.SecurityMode_SANDBOX {
		l.option("security", strings.ToLower(x.Security.String()))
	}
	for _, s := range x.Secretenv {
		l.option("secret variable "+s.Name, fmt.Sprintf("id=%s%s", s.ID, flag(!s.Optional, ",required")))
	}
	for _, d := range x.CdiDevices {
		l.option("device "+d.Name, fmt.Sprintf("device %s%s", d.Name, flag(!d.Optional, ",required")))
	}
	for _, m := range x.Mounts {
		if m.Dest != pb.RootMount || m.Readonly {
			l.option("mount "+m.Dest, mountOptions(m))
		}
	}
}

// splitShell takes the shell away from a command in shell form.
func splitShell(args []string) (shell, command string) {
	if n := len(args); n >= 3 && strings.HasPrefix(args[n-2], "-") {
		return strings.Join(args[:n-1], " "), args[n-1]
	}
	return "", strings.Join(args, " ")
}

func flag(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

// mountOptions writes a mount as --mount has it.
func mountOptions(m *pb.Mount) string {
	out := []string{"type=" + strings.ToLower(m.MountType.String())}
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch m.MountType {
	case pb.MountType_CACHE:
		add("id=%s", m.GetCacheOpt().GetID())
		add("sharing=%s", strings.ToLower(m.GetCacheOpt().GetSharing().String()))
	case pb.MountType_SECRET:
		s := m.GetSecretOpt()
		add("id=%s,uid=%d,gid=%d,mode=%04o%s", s.GetID(), s.GetUid(), s.GetGid(), s.GetMode(), flag(!s.GetOptional(), ",required"))
	case pb.MountType_SSH:
		s := m.GetSSHOpt()
		add("id=%s,uid=%d,gid=%d,mode=%04o%s", s.GetID(), s.GetUid(), s.GetGid(), s.GetMode(), flag(!s.GetOptional(), ",required"))
	case pb.MountType_TMPFS:
		add("size=%d", m.GetTmpfsOpt().GetSize())
	}
	if m.Selector != "" {
		add("source=%s", m.Selector)
	}
	if m.Readonly {
		add("readonly")
	}
	return strings.Join(out, ",")
}

// action writes an action of a file op with all that counts of it.
func action(a *pb.FileAction) string {
	switch x := a.Action.(type) {
	case *pb.FileAction_Copy:
		return copyAction(x.Copy)
	case *pb.FileAction_Mkdir:
		m := x.Mkdir
		return fmt.Sprintf("mkdir %s mode=%04o%s%s", m.Path, m.Mode, owner(m.Owner), timestamp(m.Timestamp))
	case *pb.FileAction_Mkfile:
		m := x.Mkfile
		return fmt.Sprintf("write %s mode=%04o%s%s %s", m.Path, m.Mode, owner(m.Owner), timestamp(m.Timestamp), m.Data)
	case *pb.FileAction_Rm:
		return fmt.Sprintf("remove %s%s", x.Rm.Path, flag(x.Rm.AllowWildcard, " wildcard"))
	case *pb.FileAction_Symlink:
		s := x.Symlink
		return fmt.Sprintf("link %s to %s%s%s", s.Newpath, s.Oldpath, owner(s.Owner), timestamp(s.Timestamp))
	default:
		return fmt.Sprintf("%T", x)
	}
}

func copyAction(c *pb.FileActionCopy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "copy %s to %s", c.Src, c.Dest)
	switch {
	case c.ModeStr != "":
		b.WriteString(" mode=" + c.ModeStr)
	case c.Mode >= 0:
		fmt.Fprintf(&b, " mode=%04o", c.Mode)
	}
	b.WriteString(owner(c.Owner) + timestamp(c.Timestamp))
	if len(c.IncludePatterns) > 0 {
		fmt.Fprintf(&b, " include=%s", strings.Join(c.IncludePatterns, ","))
	}
	if len(c.ExcludePatterns) > 0 {
		fmt.Fprintf(&b, " exclude=%s", strings.Join(c.ExcludePatterns, ","))
	}
	b.WriteString(flag(c.AttemptUnpackDockerCompatibility, " unpack"))
	return b.String()
}

func owner(c *pb.ChownOpt) string {
	if c == nil {
		return ""
	}
	one := func(u *pb.UserOpt) string {
		if n := u.GetByName(); n != nil {
			return n.Name
		}
		return fmt.Sprint(u.GetByID())
	}
	out := " owner=" + one(c.User)
	if c.Group != nil {
		out += ":" + one(c.Group)
	}
	return out
}

// timestamp is the time that files get; LLB has -1 for none.
func timestamp(ns int64) string {
	if ns == -1 {
		return ""
	}
	return fmt.Sprintf(" time=%d", ns)
}

// sourceParts are a source's name and what that stood for.
func sourceParts(o *llb.Op, src *pb.SourceOp) []part {
	name := src.Identifier
	if strings.HasPrefix(name, "docker-image://") {
		name, _, _ = strings.Cut(name, "@") // frontends add the digest, which is the pin's
	}
	ps := []part{newPart(explainv1.Kind_KIND_SOURCE, partSource, name, maxValue)}
	p := o.Pin()
	if p == nil {
		return ps
	}
	pin := part{Kind: explainv1.Kind_KIND_SOURCE, Name: partPin, Sum: p.PinKey()}
	if known, ok := p.(worker.Pinned); ok {
		_, after, found := strings.Cut(known.Source().Resolved, "@")
		if !found {
			after = known.Source().Resolved
		}
		pin.Value = redact(after)
	}
	return append(ps, pin)
}

// find returns the value of the part with a name.
func find(ps []part, name string) part {
	i := slices.IndexFunc(ps, func(p part) bool { return p.Name == name })
	if i < 0 {
		return part{}
	}
	return ps[i]
}

// pinnedTree returns the files that came with the pin of a source.
func pinnedTree(v *solver.Vertex) (cache.Tree, bool) {
	o, ok := v.Op.(*llb.Op)
	if !ok {
		return "", false
	}
	p, ok := o.Pin().(worker.Pinned)
	if !ok {
		return "", false
	}
	t := p.Source().Tree
	return t, t != ""
}
