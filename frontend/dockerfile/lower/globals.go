package lower

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

const epochArg = "SOURCE_DATE_EPOCH"

// predefined are the arguments that FROM and, where a stage declares them, every instruction can use without a value given.
// https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope
func predefined(o *Options, src *source) *vars {
	target := o.Target
	if target == "" {
		target = src.stages[len(src.stages)-1].Name
	}
	if target == "" {
		target = "default"
	}
	b, t := o.BuildPlatforms[0], o.target()
	v := newVars()
	for _, kv := range [...][2]string{
		{"BUILDPLATFORM", platforms.Format(b)},
		{"BUILDOS", b.OS},
		{"BUILDOSVERSION", b.OSVersion},
		{"BUILDARCH", b.Architecture},
		{"BUILDVARIANT", b.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(t)},
		{"TARGETOS", t.OS},
		{"TARGETOSVERSION", t.OSVersion},
		{"TARGETARCH", t.Architecture},
		{"TARGETVARIANT", t.Variant},
		{"TARGETSTAGE", target},
	} {
		key, value := kv[0], kv[1]
		if given, ok := o.BuildArgs[key]; ok {
			value = given
		}
		v.set(key, value)
	}
	return v
}

// expandGlobals sets the ARGs before the first FROM in args and returns what there is to say of each in an outline.
func expandGlobals(x *expander, args *vars, cmds []instructions.ArgCommand, given map[string]string) (map[string]argInfo, error) {
	infos := map[string]argInfo{}
	for _, c := range cmds {
		for _, a := range c.Args {
			info, err := expandGlobal(x, args, a, given)
			if err != nil {
				return nil, at(err, c.Location())
			}
			info.location = c.Location()
			if _, self := info.uses[a.Key]; self { // ARG X=$X...: depends on what X depended on before
				delete(info.uses, a.Key)
				maps.Copy(info.uses, infos[a.Key].uses)
			}
			infos[a.Key] = info
		}
	}
	return infos, nil
}

func expandGlobal(x *expander, args *vars, a instructions.KeyValuePairOptional, given map[string]string) (argInfo, error) {
	info := argInfo{definition: a}
	if v, ok := given[a.Key]; ok {
		info.value = v
		args.set(a.Key, v)
		return info, nil
	}
	if a.Value == nil {
		return info, nil
	}
	r, err := x.word(*a.Value, args)
	if err != nil {
		return info, err
	}
	info.value, info.uses = r.Result, r.Matched
	args.set(a.Key, r.Result)
	return info, nil
}

// proxyEnv returns the proxies among the build args. They are given to every RUN but count for no cache key.
func proxyEnv(args map[string]string) *llb.ProxyEnv {
	var p llb.ProxyEnv
	fields := map[string]*string{
		"http_proxy":  &p.HTTPProxy,
		"https_proxy": &p.HTTPSProxy,
		"ftp_proxy":   &p.FTPProxy,
		"no_proxy":    &p.NoProxy,
		"all_proxy":   &p.AllProxy,
	}
	var found bool
	for _, k := range slices.Sorted(maps.Keys(args)) { // of two spellings the small one wins
		if f, ok := fields[strings.ToLower(k)]; ok {
			*f, found = args[k], true
		}
	}
	if !found {
		return nil
	}
	return &p
}
