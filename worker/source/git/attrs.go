package git

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/buildd/buildd/cache"
	"github.com/buildd/buildd/worker/source"
	"github.com/moby/buildkit/solver/pb"
)

// request is a git source op, read.
type request struct {
	remote        remote
	ref           string
	subdir        string
	checksum      string
	keepGitDir    bool
	noSubmodules  bool
	fetchByCommit bool
	bundle        bool   // the result is a bundle, not files
	from          string // locator of a bundle to read from, "" is the remote
	fromSession   string
	fromStore     string
	commitTime    bool // files get the commit's time
	advice        bool // git may explain itself in the log

	tokenSecret, headerSecret string
	ssh, knownHosts           string

	verify *verification

	log func(stream int, data []byte) // may be nil
}

// verification says whose signature the commit or tag must have.
type verification struct {
	pubKey        []byte
	rejectExpired bool
	requireTag    bool
	ignoreTag     bool
}

var hexRegexp = regexp.MustCompile(`^[0-9a-f]+$`)

func parse(r source.Request) (request, error) {
	rem, err := parseRemote(r.Ref())
	if err != nil {
		return request{}, err
	}
	out := request{remote: rem, ref: rem.ref, subdir: rem.subdir, log: r.Log}
	for k, v := range r.Attrs {
		if err := out.set(k, v); err != nil {
			return request{}, fmt.Errorf("git source %s: %w", rem.url, err)
		}
	}
	if err := out.check(); err != nil {
		return request{}, fmt.Errorf("git source %s: %w", rem.url, err)
	}
	return out, nil
}

func (r *request) set(k, v string) error {
	yes := v == "true"
	switch k {
	case pb.AttrFullRemoteURL:
		full, err := parseRemote(v)
		if err != nil {
			return err
		}
		if !full.same(r.remote) {
			return fmt.Errorf("%s names another repository", k)
		}
		r.remote = full
	case pb.AttrKeepGitDir:
		r.keepGitDir = yes
	case pb.AttrGitChecksum:
		r.checksum = strings.ToLower(v)
	case pb.AttrGitSkipSubmodules:
		r.noSubmodules = yes
	case pb.AttrGitFetchByCommit:
		r.fetchByCommit = yes
	case pb.AttrGitBundle:
		r.from = v
	case pb.AttrOCILayoutSessionID:
		r.fromSession = v
	case pb.AttrOCILayoutStoreID:
		r.fromStore = v
	case pb.AttrGitCheckoutBundle:
		r.bundle = yes
	case pb.AttrGitAdvice:
		r.advice = yes
	case pb.AttrGitMTime:
		switch v {
		case "", "checkout":
		case "commit":
			r.commitTime = true
		default:
			return fmt.Errorf("%s %q: want checkout or commit", k, v)
		}
	case pb.AttrAuthTokenSecret:
		r.tokenSecret = v
	case pb.AttrAuthHeaderSecret:
		r.headerSecret = v
	case pb.AttrMountSSHSock:
		r.ssh = v
	case pb.AttrKnownSSHHosts:
		r.knownHosts = v
	case pb.AttrGitSignatureVerifyPubKey:
		r.verifying().pubKey = []byte(v)
	case pb.AttrGitSignatureVerifyRejectExpired:
		r.verifying().rejectExpired = yes
	case pb.AttrGitSignatureVerifyRequireSignedTag:
		r.verifying().requireTag = yes
	case pb.AttrGitSignatureVerifyIgnoreSignedTag:
		r.verifying().ignoreTag = yes
	}
	return nil
}

func (r *request) verifying() *verification {
	if r.verify == nil {
		r.verify = &verification{}
	}
	return r.verify
}

func (r *request) check() error {
	if err := checkRef(r.ref); err != nil {
		return err
	}
	if r.checksum != "" && !hexRegexp.MatchString(r.checksum) {
		return fmt.Errorf("invalid checksum %q, expected hex commit hash", r.checksum)
	}
	if isCommit(r.ref) && !strings.HasPrefix(r.ref, r.checksum) {
		return fmt.Errorf("expected checksum to match %s, got %s", r.checksum, r.ref)
	}
	if r.fetchByCommit && !isCommit(r.ref) && !isCommit(r.checksum) {
		return fmt.Errorf("%s needs a whole commit as ref or %s, not %q", pb.AttrGitFetchByCommit, pb.AttrGitChecksum, r.checksum)
	}
	if r.from != "" && !isCommit(r.checksum) {
		return fmt.Errorf("%s needs a whole commit as %s, not %q", pb.AttrGitBundle, pb.AttrGitChecksum, r.checksum)
	}
	if r.bundle && (r.keepGitDir || r.subdir != "") {
		return fmt.Errorf("%s goes neither with %s nor with a subdirectory", pb.AttrGitCheckoutBundle, pb.AttrKeepGitDir)
	}
	if r.verify != nil && len(r.verify.pubKey) == 0 {
		return errors.New("a signature is to be verified, but no public key was given")
	}
	return nil
}

// name is the request's part for which the remote is asked.
func (r *request) name() string {
	b, _ := json.Marshal([]any{r.remote.url, r.ref, r.checksum, r.fetchByCommit, r.from}) // always marshals
	return string(b)
}

// key names the files. What they were fetched with does not count, nor the ref
// unless it ends up in .git.
func (r *request) key(c commit) string {
	id, ref, url := c.peeled(), "", ""
	if r.keepGitDir {
		id, ref, url = c.ID, c.Ref, r.remote.url
	}
	if r.bundle {
		ref = c.Ref
	}
	b, _ := json.Marshal([]any{id, ref, url, r.keepGitDir, r.subdir, r.noSubmodules, r.commitTime, r.bundle}) // always marshals
	return cache.Hash("git", b).String()
}

// commit is what a ref was found to be.
type commit struct {
	// Ref is the whole ref (refs/heads/main), or the commit if that was asked for.
	Ref string
	// ID is what the ref holds: a commit, or a tag object.
	ID string
	// Commit is what the tag object ID is for; "" if ID is a commit, or not known
	// to be a tag.
	Commit string `json:",omitempty"`
}

func (c commit) peeled() string {
	if c.Commit != "" {
		return c.Commit
	}
	return c.ID
}
