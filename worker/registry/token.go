package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buildd/buildd/cache/flight"
	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	sessionauth "github.com/moby/buildkit/session/auth"
)

const (
	// defaultLife is how long a token is good that does not say (distribution's
	// token specification, "expires_in").
	defaultLife = time.Minute
	clientID    = "buildd"
)

// identity is who a client is at a registry.
type identity struct {
	login session.Login
	// key is that of a client which fetches its tokens itself.
	key *[32]byte
}

// String tells identities apart without saying their secrets.
func (i *identity) String() string {
	switch {
	case i.key != nil:
		return "key:" + hex.EncodeToString(i.key[:])
	case i.login != session.Login{}:
		sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(i.login.Username), i.login.Username, i.login.Secret))
		return "login:" + hex.EncodeToString(sum[:])
	default:
		return "anonymous"
	}
}

// identify asks the client who it is. Only for bearer tokens can the client keep
// its credentials to itself.
func (a *authorizer) identify(ctx context.Context, host string, s auth.AuthenticationScheme) (*identity, error) {
	if s == auth.BearerAuth {
		key, err := session.TokenAuthority(ctx, a.client, host)
		if err != nil {
			return nil, err
		}
		if key != nil {
			ok, err := session.HoldsAuthority(ctx, a.client, host, key)
			if err != nil {
				return nil, err
			}
			if ok {
				return &identity{key: key}, nil
			}
		}
	}
	login, err := session.Credentials(ctx, a.client, host)
	if err != nil {
		return nil, err
	}
	if login == (session.Login{}) && a.hosts.o.Login != nil {
		if login, err = a.hosts.o.Login(host); err != nil {
			return nil, fmt.Errorf("find credentials of %s: %w", host, err)
		}
	}
	return &identity{login: login}, nil
}

// tokens keeps bearer tokens while they are good. Clients share a token if they
// are the same at the registry, which a client with a key has proved.
type tokens struct {
	flights flight.Group[string, struct{}, token]

	mu   sync.Mutex // guards held
	held map[string]token
}

type token struct {
	value   string
	expires time.Time
}

type tokenRequest struct {
	id             *identity
	client         session.Client
	http           *http.Client
	host           string
	realm, service string
	scopes         []string
}

func (r tokenRequest) key() string {
	return strings.Join([]string{r.id.String(), r.host, r.realm, r.service, strings.Join(r.scopes, " ")}, "\n")
}

func (t *tokens) get(ctx context.Context, r tokenRequest) (string, error) {
	key := r.key()
	if tok, ok := t.lookup(key); ok {
		return tok.value, nil
	}
	tok, err := t.flights.Do(ctx, key, struct{}{}, func(ctx context.Context, _ *flight.Call[struct{}, token]) (token, error) {
		if tok, ok := t.lookup(key); ok {
			return tok, nil
		}
		tok, err := r.fetch(ctx)
		if err != nil {
			return token{}, fmt.Errorf("get token of %s for %s: %w", r.host, strings.Join(r.scopes, " "), err)
		}
		t.keep(key, tok)
		return tok, nil
	})
	return tok.value, err
}

func (t *tokens) lookup(key string) (token, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tok, ok := t.held[key]
	return tok, ok && time.Now().Before(tok.expires)
}

func (t *tokens) keep(key string, tok token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = map[string]token{}
	}
	now := time.Now()
	maps.DeleteFunc(t.held, func(_ string, tok token) bool { return !now.Before(tok.expires) })
	t.held[key] = tok
}

func (t *tokens) forget(r tokenRequest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.held, r.key())
}

func (r tokenRequest) fetch(ctx context.Context) (token, error) {
	if r.id.key != nil {
		return r.fetchByClient(ctx)
	}
	to := auth.TokenOptions{Realm: r.realm, Service: r.service, Scopes: r.scopes, Username: r.id.login.Username, Secret: r.id.login.Secret}
	header := http.Header{"User-Agent": {userAgent}}
	if to.Secret != "" && to.Username == "" { // an identity token
		return r.fetchOAuth(ctx, header, to)
	}
	resp, err := auth.FetchToken(ctx, r.http, header, to)
	var status remoteserrors.ErrUnexpectedStatus
	if errors.As(err, &status) && to.Secret != "" && wantsPost(status.StatusCode) {
		return r.fetchOAuth(ctx, header, to)
	}
	if err != nil {
		return token{}, err
	}
	return newToken(resp.Token, resp.IssuedAt, resp.ExpiresInSeconds), nil
}

// wantsPost lists what servers answer to GET that know only OAuth's POST.
func wantsPost(status int) bool {
	return status == http.StatusMethodNotAllowed || status == http.StatusNotFound || status == http.StatusUnauthorized
}

func (r tokenRequest) fetchOAuth(ctx context.Context, header http.Header, to auth.TokenOptions) (token, error) {
	resp, err := auth.FetchTokenWithOAuth(ctx, r.http, header, clientID, to)
	if err != nil {
		return token{}, err
	}
	return newToken(resp.AccessToken, resp.IssuedAt, resp.ExpiresInSeconds), nil
}

func (r tokenRequest) fetchByClient(ctx context.Context) (token, error) {
	resp, err := session.FetchToken(ctx, r.client, &sessionauth.FetchTokenRequest{
		ClientID: clientID, Host: r.host, Realm: r.realm, Service: r.service, Scopes: r.scopes,
	})
	if err != nil {
		return token{}, err
	}
	var issued time.Time
	if resp.IssuedAt != 0 {
		issued = time.Unix(resp.IssuedAt, 0)
	}
	return newToken(resp.Token, issued, int(resp.ExpiresIn)), nil
}

// newToken leaves a tenth of a token's life for clocks that differ.
func newToken(value string, issued time.Time, seconds int) token {
	if issued.IsZero() {
		issued = time.Now()
	}
	life := time.Duration(seconds) * time.Second
	if life <= 0 {
		life = defaultLife
	}
	return token{value: value, expires: issued.Add(life - life/10)}
}

func splitSpace(s string) []string { return strings.Split(s, " ") }

// mergeScopes unites the actions of scopes for the same thing
// ("repository:NAME:ACTION,ACTION") and sorts both.
func mergeScopes(scopes []string) []string {
	actions := map[string]map[string]bool{}
	for _, s := range scopes {
		name, list := s, ""
		if i := strings.LastIndexByte(s, ':'); i > strings.IndexByte(s, ':') {
			name, list = s[:i], s[i+1:]
		}
		if actions[name] == nil {
			actions[name] = map[string]bool{}
		}
		for _, a := range strings.Split(list, ",") {
			if a != "" {
				actions[name][a] = true
			}
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(actions)) {
		out = append(out, name+":"+strings.Join(slices.Sorted(maps.Keys(actions[name])), ","))
	}
	return out
}
