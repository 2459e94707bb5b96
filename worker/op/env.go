package op

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/buildd/buildd/worker/session"
	"github.com/moby/buildkit/solver/pb"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment collects variables; a later one of the same name wins, at the
// place of the first.
type environment struct {
	list []string
	at   map[string]int
}

func newEnvironment(env []string) *environment {
	e := &environment{at: map[string]int{}}
	for _, s := range env {
		if name, value, ok := strings.Cut(s, "="); ok && name != "" {
			e.set(name, value)
		}
	}
	return e
}

func (e *environment) set(name, value string) {
	s := name + "=" + value
	if i, ok := e.at[name]; ok {
		e.list[i] = s
		return
	}
	e.at[name] = len(e.list)
	e.list = append(e.list, s)
}

func (e *environment) setDefault(name, value string) {
	if _, ok := e.at[name]; !ok {
		e.set(name, value)
	}
}

// setProxy sets both spellings of each variable that the client's proxy
// settings have.
func (e *environment) setProxy(p *pb.ProxyEnv) {
	for _, v := range []struct{ name, value string }{
		{"HTTP_PROXY", p.GetHttpProxy()}, {"HTTPS_PROXY", p.GetHttpsProxy()}, {"FTP_PROXY", p.GetFtpProxy()},
		{"NO_PROXY", p.GetNoProxy()}, {"ALL_PROXY", p.GetAllProxy()},
	} {
		if v.value != "" {
			e.set(v.name, v.value)
			e.set(strings.ToLower(v.name), v.value)
		}
	}
}

// setSecrets fetches secrets from the client. One that is optional and that
// nobody has is set to nothing, as with BuildKit.
func (e *environment) setSecrets(ctx context.Context, c session.Client, secrets []*pb.SecretEnv) error {
	for _, s := range secrets {
		value, err := session.Secret(ctx, c, s.ID)
		if err != nil && !(s.Optional && errors.Is(err, session.ErrNotFound)) {
			return fmt.Errorf("environment variable %s: %w", s.Name, err)
		}
		if strings.ContainsRune(string(value), 0) {
			return fmt.Errorf("environment variable %s: secret %q has a zero byte", s.Name, s.ID)
		}
		e.set(s.Name, string(value))
	}
	return nil
}
