package lower

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
)

func (in *instruction) run(c *instructions.RunCommand) error {
	s := in.s
	s.countVertex()
	if err := in.expand.spend(s.env.size); err != nil { // every command carries all of it
		return err
	}
	s.used.addAll() // a command may read any file
	cmd, title, opts, err := in.runCommand(c)
	if err != nil {
		return err
	}
	for _, arg := range cmd {
		if err := checkUTF8(arg); err != nil {
			return err
		}
	}
	opts = append(opts, llb.Args(cmd), describe(c.String()), in.where(in.Location()))
	if s.noCache {
		opts = append(opts, llb.IgnoreCache)
	}
	if in.proxy != nil {
		opts = append(opts, llb.WithProxy(*in.proxy))
	}
	mounts, err := in.mounts(c)
	if err != nil {
		return err
	}
	opts = append(opts, mounts...)
	sandbox, err := in.sandbox(c)
	if err != nil {
		return err
	}
	opts = append(opts, sandbox...)
	name := in.title(s, upper(in.expand.command(title, maskSecrets(c, s.env))), s.env)
	opts = append(opts, llb.WithCustomName(name))
	s.state = s.state.Run(opts...).Root()
	return in.record(runRecord(cmd, s.args, s.env), true)
}

// runCommand returns the command of a RUN, what to call it, and what it needs beside. A heredoc is handed to the shell in one of
// three forms: https://docs.docker.com/reference/dockerfile/#here-documents
func (in *instruction) runCommand(c *instructions.RunCommand) (cmd []string, title string, opts []llb.RunOption, err error) {
	cmd, title = c.CmdLine, c.String()
	if len(c.Files) > 0 {
		if len(cmd) != 1 || !c.PrependShell {
			return nil, "", nil, fmt.Errorf("a heredoc needs the shell form, not %q", cmd)
		}
		if parser.MustParseHeredoc(cmd[0]) == nil { // there is more to the command: the shell itself reads the heredocs
			cmd = []string{withHeredocs(cmd[0], c.Files)}
		} else {
			f := c.Files[0]
			text := f.Data
			if f.Chomp {
				text = parser.ChompHeredocContent(text)
			}
			title += " (" + firstLineOf(f.Data) + ")"
			if strings.HasPrefix(text, "#!") && in.s.image.OS != windows {
				script, mount := in.scriptMount(f.Name, text)
				return []string{script}, title, []llb.RunOption{mount}, nil
			}
			cmd = []string{text}
		}
	}
	if c.PrependShell {
		cmd = append(shellOf(&in.s.image), strings.Join(cmd, " "))
	}
	return cmd, title, nil, nil
}

// withHeredocs puts heredocs back to where the shell expects them.
func withHeredocs(cmd string, files []instructions.ShellInlineFile) string {
	var b strings.Builder
	b.WriteString(cmd)
	for _, f := range files {
		b.WriteString("\n" + f.Data + f.Name)
	}
	return b.String()
}

// scriptMount makes a heredoc that says by what it is to be run ("#!") a file of its own.
func (in *instruction) scriptMount(name, text string) (string, llb.RunOption) {
	const dir = "/dev/pipes/"
	st := llb.Scratch().Dir("/").File(
		llb.Mkfile(name, 0o755, []byte(text)),
		internalName("preparing inline document"),
		llb.Platform(*in.s.platform),
		in.where(in.Location()),
	)
	return path.Join(dir, name), llb.AddMount(dir, st, llb.SourcePath("/"), llb.Readonly)
}

func firstLineOf(doc string) string {
	line, _, more := strings.Cut(strings.TrimSpace(doc), "\n")
	line = strings.TrimSuffix(line, "\r")
	if more {
		line += "..."
	}
	return line
}

// sandbox returns what a RUN may reach and use: what its flags say and what holds for all.
func (in *instruction) sandbox(c *instructions.RunCommand) ([]llb.RunOption, error) {
	var opts []llb.RunOption
	switch v := instructions.GetSecurity(c); v {
	case instructions.SecuritySandbox:
		opts = append(opts, llb.Security(pb.SecurityMode_SANDBOX))
	case instructions.SecurityInsecure:
		opts = append(opts, llb.Security(pb.SecurityMode_INSECURE))
	default:
		return nil, fmt.Errorf("unsupported security mode %q", v)
	}
	switch v := instructions.GetNetwork(c); v {
	case instructions.NetworkDefault:
	case instructions.NetworkNone:
		opts = append(opts, llb.Network(pb.NetMode_NONE))
	case instructions.NetworkHost:
		opts = append(opts, llb.Network(pb.NetMode_HOST))
	default:
		return nil, fmt.Errorf("unsupported network mode %q", v)
	}
	opts = append(opts, in.devices(c)...)
	return append(opts, in.limits()...), nil
}

// devices are those that the build asks for and those that the instruction asks for.
func (in *instruction) devices(c *instructions.RunCommand) []llb.RunOption {
	if !in.o.has(pb.CapExecMetaCDI) {
		return nil
	}
	var opts []llb.RunOption
	add := func(name string, optional bool) {
		o := []llb.CDIDeviceOption{llb.CDIDeviceName(name)}
		if optional {
			o = append(o, llb.CDIDeviceOptional)
		}
		opts = append(opts, llb.AddCDIDevice(o...))
	}
	for _, d := range in.o.Run.Devices {
		add(d.Name, d.Optional)
	}
	for _, d := range instructions.GetDevices(c) {
		add(d.Name, !d.Required)
	}
	return opts
}

// limits are resources, as far as the daemon says that it knows them.
func (in *instruction) limits() []llb.RunOption {
	var opts []llb.RunOption
	r := &in.o.Run
	for _, h := range r.ExtraHosts {
		opts = append(opts, llb.AddExtraHost(h.Host, h.IP))
	}
	if in.o.has(pb.CapExecMetaUlimit) {
		for _, u := range r.Ulimits {
			opts = append(opts, llb.AddUlimit(llb.UlimitName(u.Name), u.Soft, u.Hard))
		}
	}
	if r.ShmSize > 0 && in.o.has(pb.CapExecMountTmpfsSize) {
		opts = append(opts, llb.AddMount("/dev/shm", llb.Scratch(), llb.Tmpfs(llb.TmpfsSize(r.ShmSize))))
	}
	if r.CgroupParent != "" && in.o.has(pb.CapExecMetaCgroupParent) {
		opts = append(opts, llb.WithCgroupParent(r.CgroupParent))
	}
	if x := r.Resources; x != nil && in.o.has(pb.CapExecMetaLinuxResources) {
		opts = append(opts, llb.WithLinuxResources(llb.LinuxResources{
			Memory:     x.Memory,
			MemorySwap: x.MemorySwap,
			CPUShares:  x.CpuShares,
			CPUPeriod:  x.CpuPeriod,
			CPUQuota:   x.CpuQuota,
			CpusetCpus: x.CpusetCpus,
			CpusetMems: x.CpusetMems,
		}))
	}
	return opts
}
