package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/buildd/buildd/worker/session"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	"github.com/containerd/errdefs"
)

// errNoLogin is returned when a registry wants a login and nobody has one.
var errNoLogin = errors.New("the registry wants a login")

// authorizer answers the challenges of registries with one client's
// credentials. Logins are looked up once per host and Resolver.
type authorizer struct {
	hosts  *Hosts
	client session.Client

	mu    sync.Mutex // guards where
	where map[string]*hostAuth
}

func newAuthorizer(h *Hosts, c session.Client) *authorizer {
	return &authorizer{hosts: h, client: c, where: map[string]*hostAuth{}}
}

// at returns the part of a that is for one host.
func (a *authorizer) at(rh docker.RegistryHost) *hostAuth {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.where[rh.Host]
	if !ok {
		h = &hostAuth{a: a, host: rh.Host, http: rh.Client}
		a.where[rh.Host] = h
	}
	return h
}

// hostAuth implements docker.Authorizer for one host.
type hostAuth struct {
	a    *authorizer
	host string
	http *http.Client

	mu        sync.Mutex // guards the rest
	challenge *auth.Challenge
	id        *identity
}

// Authorize gives a request what the registry's last challenge asked for. Other
// hosts, to which a registry redirects for blobs, get nothing.
func (h *hostAuth) Authorize(ctx context.Context, r *http.Request) error {
	h.mu.Lock()
	c, id := h.challenge, h.id
	h.mu.Unlock()
	if c == nil || r.URL.Host != h.host {
		return nil
	}
	if c.Scheme == auth.BasicAuth {
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id.login.Username+":"+id.login.Secret)))
		return nil
	}
	token, err := h.a.hosts.tokens.get(ctx, h.request(ctx, *c, id))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return nil
}

func (h *hostAuth) request(ctx context.Context, c auth.Challenge, id *identity) tokenRequest {
	return tokenRequest{
		id: id, client: h.a.client, http: h.http, host: h.host,
		realm: c.Parameters["realm"], service: c.Parameters["service"],
		scopes: mergeScopes(docker.GetTokenScopes(ctx, splitScopes(c.Parameters["scope"]))),
	}
}

// AddResponses learns from a 401 how to authorize the next attempt.
func (h *hostAuth) AddResponses(ctx context.Context, responses []*http.Response) error {
	last := responses[len(responses)-1]
	if last.Request.URL.Host != h.host {
		return fmt.Errorf("%w: %s wants a login of its own", errdefs.ErrNotImplemented, last.Request.URL.Host)
	}
	for _, c := range auth.ParseAuthHeader(last.Header) {
		switch c.Scheme {
		case auth.BearerAuth, auth.BasicAuth:
			return h.adopt(ctx, c, responses)
		default: // digest, which no registry uses
		}
	}
	return fmt.Errorf("%w: %s offers no login scheme that is known", errdefs.ErrNotImplemented, h.host)
}

func (h *hostAuth) adopt(ctx context.Context, c auth.Challenge, responses []*http.Response) error {
	id, err := h.identity(ctx, c.Scheme)
	if err != nil {
		return err
	}
	if c.Scheme == auth.BasicAuth && id.login.Secret == "" {
		return fmt.Errorf("%w: %w", docker.ErrInvalidAuthorization, errNoLogin)
	}
	// A request that was refused with authorization will be refused again, unless
	// its token has only expired.
	refused := 0
	for _, r := range responses {
		if r.StatusCode == http.StatusUnauthorized && r.Request.Header.Get("Authorization") != "" {
			refused++
		}
	}
	if refused > 0 {
		if c.Scheme == auth.BasicAuth || refused > 1 {
			return fmt.Errorf("%w: %s", docker.ErrInvalidAuthorization, c.Parameters["error"])
		}
		h.a.hosts.tokens.forget(h.request(ctx, c, id))
	}
	h.mu.Lock()
	h.challenge = &c
	h.mu.Unlock()
	return nil
}

// identity finds out once who the client is at the host.
func (h *hostAuth) identity(ctx context.Context, s auth.AuthenticationScheme) (*identity, error) {
	h.mu.Lock()
	id := h.id
	h.mu.Unlock()
	if id != nil && (s == auth.BearerAuth || id.key == nil) {
		return id, nil
	}
	id, err := h.a.identify(ctx, h.host, s)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.id = id
	h.mu.Unlock()
	return id, nil
}

// splitScopes splits what a challenge lists, "" being nothing.
func splitScopes(s string) []string {
	return slices.DeleteFunc(splitSpace(s), func(s string) bool { return s == "" })
}
