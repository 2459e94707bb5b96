package lower

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/patternmatcher"
)

// Rules of https://docs.docker.com/reference/build-checks/ that are not checked by BuildKit's parser itself. A broken rule is a
// warning; it becomes an error only if the Dockerfile or the build asks for it.

// warn reports a rule that the instruction breaks.
func (in *instruction) warn(rule linter.LinterRuleI, text string) {
	in.lint.Run(rule, in.Location(), text)
}

// seenOnce remembers instructions of a stage of which only the last counts.
type seenOnce struct {
	cmd, entrypoint, healthcheck []parser.Range // place of the last one, nil if there is none
	workdir                      bool
}

func (in *instruction) checkOnce(last *[]parser.Range) {
	if *last != nil {
		text := linter.RuleMultipleInstructionsDisallowed.Format(in.Name())
		in.lint.Run(&linter.RuleMultipleInstructionsDisallowed, *last, text) // that one is in vain
	}
	*last = in.Location()
}

// checkKeyValue reports "ENV key value", without an equals sign.
func (in *instruction) checkKeyValue(noDelim bool) {
	if noDelim {
		in.warn(&linter.RuleLegacyKeyValueFormat, linter.RuleLegacyKeyValueFormat.Format(in.Name()))
	}
}

var (
	secretKey = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicKey = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

// checkSecretKey reports a variable that is called like a secret: everybody who has the image can read it.
func (in *instruction) checkSecretKey(name, key string) {
	if secretKey.MatchString(key) && !publicKey.MatchString(key) {
		in.warn(&linter.RuleSecretsUsedInArgOrEnv, linter.RuleSecretsUsedInArgOrEnv.Format(name, key))
	}
}

// checkUndefined reports variables that a word used and that nothing sets.
func (in *instruction) checkUndefined(missing map[string]struct{}) {
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		declared := slices.ContainsFunc(in.s.args, func(a instructions.KeyValuePairOptional) bool { return a.Key == name })
		if declared || isScanArg(name) {
			continue
		}
		in.warn(&linter.RuleUndefinedVar, linter.RuleUndefinedVar.Format(name, in.nearest(name, in.s.env.Keys())))
	}
}

// nearest suggests a name in a warning, as long as there are not too many to compare.
func (l *lowering) nearest(name string, known []string) string {
	if l.expand.spend(16*len(known)) != nil {
		return ""
	}
	return nearest(name, known)
}

// checkIgnored reports a source that the ignore file keeps out of the build context. With exceptions in the file that cannot be
// told from the pattern alone: a directory may be ignored and a file in it not.
func (in *instruction) checkIgnored(src string) {
	if in.ignored == nil || in.ignored.Exclusions() {
		return
	}
	src = path.Clean(src)
	if (src == "." || src == "/") && !ignoresAll(in.ignored) {
		return
	}
	if ok, err := in.ignored.MatchesOrParentMatches(src); err != nil || !ok {
		return
	}
	name := "Copy"
	if _, ok := in.Command.(*instructions.AddCommand); ok {
		name = "Add"
	}
	in.warn(&linter.RuleCopyIgnoredFile, linter.RuleCopyIgnoredFile.Format(name, src))
}

func ignoresAll(m *patternmatcher.PatternMatcher) bool {
	return slices.ContainsFunc(m.Patterns(), func(p *patternmatcher.Pattern) bool {
		s := p.String()
		return !p.Exclusion() && (s == "*" || s == "**" || s == "**/*")
	})
}

// checkStageNames reports names that mean something else, or another stage.
func (l *lowering) checkStageNames() {
	names := map[string]bool{}
	for _, s := range l.src.stages {
		if s.Name == "" {
			continue
		}
		if s.Name == scratch || s.Name == "context" {
			l.lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if names[s.Name] {
			l.lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		names[s.Name] = true
	}
}

// checkCasing reports instructions that are not written in the case that most of the file is written in.
func (l *lowering) checkCasing() {
	type word struct {
		name  string
		where []parser.Range
	}
	var words []word
	for _, s := range l.src.stages {
		words = append(words, word{s.OrigCmd, s.Location})
		for _, c := range s.Commands {
			words = append(words, word{c.Name(), c.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.name {
		case strings.ToLower(w.name):
			lower++
		case strings.ToUpper(w.name):
			upper++
		}
	}
	right, casing := strings.ToUpper, "uppercase"
	if lower > upper {
		right, casing = strings.ToLower, "lowercase"
	}
	for _, w := range words {
		if right(w.name) != w.name {
			l.lint.Run(&linter.RuleConsistentInstructionCasing, w.where, linter.RuleConsistentInstructionCasing.Format(w.name, casing))
		}
	}
}

// checkDefaultArgs reports base images that are no valid name unless build arguments are given.
func (l *lowering) checkDefaultArgs() {
	args, x := l.args.clone(), newExpander(l.src.escape, l.o.maxOutput)
	if _, err := expandGlobals(x, args, l.src.globals, nil); err != nil {
		return // the lowering itself will say so
	}
	stages := map[string]bool{}
	for _, s := range l.src.stages {
		r, err := x.word(s.BaseName, args)
		if err != nil {
			return
		}
		isStage := stages[strings.ToLower(r.Result)]
		stages[s.Name] = true
		if isStage {
			continue
		}
		if _, err := parseRef(r.Result); err != nil {
			l.lint.Run(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
		}
	}
}

// checkFromArgs reports arguments in a FROM that are declared nowhere.
func (l *lowering) checkFromArgs(s *stage, r shell.ProcessWordResult) {
	if len(r.Unmatched) == 0 {
		return
	}
	known := append(slices.Sorted(maps.Keys(l.outline.args)), l.args.Keys()...)
	for _, name := range slices.Sorted(maps.Keys(r.Unmatched)) {
		if !slices.Contains(known, name) {
			text := linter.RuleUndefinedArgInFrom.Format(name, l.nearest(name, known))
			l.stageLint(s).Run(&linter.RuleUndefinedArgInFrom, s.def.Location, text)
		}
	}
}

// checkPlatformFlag reports a --platform that says what is so anyhow, or that is fixed although a build argument could say it.
func (l *lowering) checkPlatformFlag(s *stage, r shell.ProcessWordResult) {
	const key = "TARGETPLATFORM"
	lint := l.stageLint(s)
	if len(r.Matched) == 1 && len(r.Unmatched) == 0 {
		target, _ := l.args.Get(key)
		if _, ok := r.Matched[key]; ok && r.Result == target {
			lint.Run(&linter.RuleRedundantTargetPlatform, s.def.Location, linter.RuleRedundantTargetPlatform.Format(s.def.Platform))
		}
	}
	if len(r.Matched) > 0 || len(r.Unmatched) > 0 {
		return
	}
	p, err := platforms.Parse(r.Result)
	if err != nil || strings.Contains(s.def.Name, p.OS) || strings.Contains(s.def.Name, p.Architecture) {
		return // a stage called "build-arm64" means it
	}
	text := linter.RuleFromPlatformFlagConstDisallowed.Format(r.Result)
	lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, s.def.Location, text)
}

// checkBasePlatform reports a base image that is for another platform than it is pulled for.
func (l *lowering) checkBasePlatform(s *stage) {
	want, got := *s.platform, s.image.Platform
	if want.OS == got.OS && want.Architecture == got.Architecture {
		return
	}
	format := linter.RuleInvalidBaseImagePlatform.Format
	text := format(s.def.BaseName, platforms.FormatAll(platforms.Normalize(want)), platforms.FormatAll(platforms.Normalize(got)))
	l.stageLint(s).Run(&linter.RuleInvalidBaseImagePlatform, s.def.Location, text)
}

func (l *lowering) stageLint(s *stage) *linter.Linter {
	return l.lint.WithMergedConfigFromComments(s.def.Comments)
}
